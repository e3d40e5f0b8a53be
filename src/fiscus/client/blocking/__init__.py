"""The calls that block until they are answered: a module for each resource, joined in `api`."""
