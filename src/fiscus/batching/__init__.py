"""Commands of many callers, done in groups: of threads, and of coroutines of an event loop."""
