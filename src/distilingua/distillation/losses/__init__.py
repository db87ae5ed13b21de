"""One file per term: a function on tensors, and a small class that says which signals it needs."""
