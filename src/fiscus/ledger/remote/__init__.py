"""The ledger in a process of its own, used by the event loop and the threads of another.

Two interpreters decide and answer at the same time, where two threads of one would take turns
(docs/decisions/0030).
"""
