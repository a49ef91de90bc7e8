"""What several backends need: layers, embeddings, labels of images, downloads, schedules."""
