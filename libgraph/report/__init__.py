"""What people look at: pictures of the interaction graph."""
