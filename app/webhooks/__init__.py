"""HTTP in: the secret, then the body into events, then the answer. One reader per vendor."""
