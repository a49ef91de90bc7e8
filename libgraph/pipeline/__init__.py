"""What all analyses share: options, the network and data they work on, stages and their costs."""
