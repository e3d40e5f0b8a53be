"""Partitions by month on PostgreSQL, and functions by which the application makes and drops them.

The application may call the functions and nothing else of the kind: they run as the owner.
"""

from __future__ import annotations

from alembic import op

from fiscus.stores.sql.migrations.row_security import app_role, schema


def partition(table: str, make: str) -> None:
    """Partitions for the months around now of a table partitioned by time, one for all other rows,
    and the function `make`, which makes months ahead and answers the new partitions.

    A month whose rows already sit in the default partition stays there.
    """
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute(f"ALTER TABLE {table}_default ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table}_default FORCE ROW LEVEL SECURITY")
    op.execute(
        f"""
        CREATE FUNCTION {make}(months_ahead integer) RETURNS SETOF text
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema()}, pg_temp AS $$
        DECLARE
            this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
            first timestamp;
            made text;
        BEGIN
            IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 24 THEN
                RAISE EXCEPTION 'months_ahead must be 0 to 24';
            END IF;
            FOR step IN -1..months_ahead LOOP
                first := this_month + make_interval(months => step);
                made := '{table}_' || to_char(first, 'YYYY_MM');
                CONTINUE WHEN to_regclass(made) IS NOT NULL;
                BEGIN
                    EXECUTE format(
                        'CREATE TABLE %I PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)',
                        made, first AT TIME ZONE 'UTC',
                        (first + interval '1 month') AT TIME ZONE 'UTC');
                    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', made);
                    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', made);
                    RETURN NEXT made;
                EXCEPTION WHEN check_violation OR duplicate_table THEN
                    NULL;
                END;
            END LOOP;
        END $$
        """
    )
    _let_the_application_call(f"{make}(integer)")
    op.execute(f"SELECT {make}(3)")


def dropping(table: str, drop: str) -> None:
    """The function `drop`, which drops a table's months that ended by a moment and answers the
    first moment of each. Only who sees all tenants' rows may do that to them."""
    op.execute(
        f"""
        CREATE FUNCTION {drop}(moment timestamptz) RETURNS SETOF timestamptz
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema()}, pg_temp AS $$
        DECLARE
            name text;
            first timestamp;
        BEGIN
            IF current_setting('fiscus.tenants', true) IS DISTINCT FROM '*' THEN
                RAISE insufficient_privilege USING MESSAGE = 'months are of all tenants';
            END IF;
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
