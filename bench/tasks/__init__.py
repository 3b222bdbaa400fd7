"""What the models are asked, and how an answer becomes a score."""
