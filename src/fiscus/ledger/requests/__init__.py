"""From requests to commands: short forms resolved, amounts and scopes checked, time put in.

The idempotency key of a single call is looked at first, as a client looks at it before it sends.
"""
