"""What people look at: pictures of graphs and of figures, and files for other programs."""
