"""Counters of rate limits: in this process, and in Redis or Valkey."""
