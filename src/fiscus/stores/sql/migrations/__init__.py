"""Alembic's scripts: one file per change of the tables, for SQLite and PostgreSQL alike."""
