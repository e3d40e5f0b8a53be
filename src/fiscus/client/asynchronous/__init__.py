"""The calls of `blocking` as coroutines: a module for each resource, joined in `api`."""
