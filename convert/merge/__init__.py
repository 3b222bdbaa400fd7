"""Base and adapter as one checkpoint, computed tensor by tensor."""
