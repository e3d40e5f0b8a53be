"""Partitions by month on PostgreSQL, and functions by which the application makes and drops them.

The application may call the functions and nothing else of the kind: they run as the owner.
"""

from __future__ import annotations

from datetime import date
from typing import Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.migrations.row_security import app_role, schema

_OF_ALL_TENANTS: Final = """
    IF current_setting('fiscus.tenants', true) IS DISTINCT FROM '*' THEN
        RAISE insufficient_privilege USING MESSAGE = 'months are of all tenants';
    END IF;
"""
"""Who calls must see the rows of all tenants."""


def partition(table: str, time: str, make: str) -> None:
    """Partitions for the months around now of a table partitioned by `time`, one for all other
    rows, and the function `make`."""
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    _bind(f"{table}_default")
    making(table, time, make)
    op.execute(f"SELECT {make}(3)")


def making(table: str, time: str, make: str) -> None:
    """The function `make`, which makes a table's months ahead and answers the new partitions.

    A month that has rows already stays in the partition in which they lie, which is found out
    before anything is locked: to make a month locks the whole table and looks through the default
    partition, where only rows of months lie that were not made in time. Only who sees all tenants'
    rows may have months made.
    """
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION {make}(months_ahead integer) RETURNS SETOF text
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema()}, pg_temp AS $$
        DECLARE
            this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
            first timestamp;
            starts timestamptz;
            ends timestamptz;
            made text;
            has_rows boolean;
        BEGIN
            IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 24 THEN
                RAISE EXCEPTION 'months_ahead must be 0 to 24';
            END IF;
            {_OF_ALL_TENANTS}
            FOR step IN -1..months_ahead LOOP
                first := this_month + make_interval(months => step);
                starts := first AT TIME ZONE 'UTC';
                ends := (first + interval '1 month') AT TIME ZONE 'UTC';
                made := '{table}_' || to_char(first, 'YYYY_MM');
                CONTINUE WHEN to_regclass(made) IS NOT NULL;
                EXECUTE 'SELECT EXISTS (SELECT FROM {table} WHERE {time} >= $1 AND {time} < $2)'
                    INTO has_rows USING starts, ends;
                CONTINUE WHEN has_rows;
                BEGIN
                    EXECUTE format(
                        'CREATE TABLE %I PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)',
                        made, starts, ends);
                    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', made);
                    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', made);
                    RETURN NEXT made;
                EXCEPTION WHEN check_violation OR duplicate_table OR invalid_object_definition THEN
                    NULL;  -- meanwhile it has rows, or is there; or it is before the first month
                END;
            END LOOP;
        END $$
        """
    )
    _let_the_application_call(f"{make}(integer)")


def set_old_rows_apart(table: str, time: str, make: str) -> None:
    """Make the default partition the one of all rows from before the first month, which
    may be many, and another default partition, which stays as good as empty."""
    old = f"{table}_before"
    op.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_default")
    op.execute(f"ALTER TABLE {table}_default RENAME TO {old}")
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    _bind(f"{table}_default")
    op.execute(f"SELECT {make}(3)")
    first = f"TIMESTAMPTZ '{_first_month(table)} 00:00Z'"
    op.execute(f"ALTER TABLE {old} NO FORCE ROW LEVEL SECURITY")
    op.execute(
        f"""
        WITH moved AS (DELETE FROM {old} WHERE {time} >= {first} RETURNING *)
        INSERT INTO {table} SELECT * FROM moved
        """
    )
    _bind(old)
    op.execute(
        f"ALTER TABLE {table} ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ({first})"
    )


def put_old_rows_back(table: str) -> None:
    """Undo `set_old_rows_apart`."""
    old, default = f"{table}_before", f"{table}_default"
    for name in (old, default):
        op.execute(f"ALTER TABLE {table} DETACH PARTITION {name}")
        op.execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
    op.execute(f"INSERT INTO {old} SELECT * FROM {default}")
    op.execute(f"DROP TABLE {default}")
    op.execute(f"ALTER TABLE {old} RENAME TO {default}")
    _bind(default)
    op.execute(f"ALTER TABLE {table} ATTACH PARTITION {default} DEFAULT")


def dropping(table: str, drop: str) -> None:
    """The function `drop`, which drops a table's months that ended by a moment and answers the
    first moment of each. Only who sees all tenants' rows may have that done."""
    op.execute(
        f"""
        CREATE FUNCTION {drop}(moment timestamptz) RETURNS SETOF timestamptz
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema()}, pg_temp AS $$
        DECLARE
            name text;
            first timestamp;
        BEGIN
            {_OF_ALL_TENANTS}
            FOR name IN
                SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = '{table}'::regclass AND c.relname ~ '_[0-9]{{4}}_[0-9]{{2}}$'
                 ORDER BY c.relname
            LOOP
                first := to_date(right(name, 7), 'YYYY_MM');
                CONTINUE WHEN
                    ((first + interval '1 month') AT TIME ZONE 'UTC' <= moment) IS NOT TRUE;
                EXECUTE format('DROP TABLE %I', name);
                RETURN NEXT first AT TIME ZONE 'UTC';
            END LOOP;
        END $$
        """
    )
    _let_the_application_call(f"{drop}(timestamptz)")


def _let_the_application_call(function: str) -> None:
    op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {app_role()}")


def _first_month(table: str) -> date:
    query = sa.text(
        """
        SELECT to_date(min(right(c.relname, 7)), 'YYYY_MM')
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = CAST(:name AS regclass) AND c.relname ~ '_[0-9]{4}_[0-9]{2}$'
        """
    )
    return op.get_bind().execute(query, {"name": table}).scalar_one()


def _bind(partition: str) -> None:
    """Let nobody see rows by the partition's own name."""
    op.execute(f"ALTER TABLE {partition} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {partition} FORCE ROW LEVEL SECURITY")
