"""How much memory a training takes, and the fastest way to train in what there is."""
