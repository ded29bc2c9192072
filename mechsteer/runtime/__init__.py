"""What runs while a model is steered: scopes, sessions, batches, restarts, threads."""
