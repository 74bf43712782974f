"""What is done to the data: one pass over an instance's entities, and the motions that it runs."""
