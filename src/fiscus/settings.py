"""Every setting, read once from the environment (`FISCUS_…`) or given in code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def wrong_setting(error: ValidationError) -> tuple[str, str]:
    """The name of a setting that is wrong, and what is wrong with it."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = "_".join(str(part) for part in first["loc"])
    what = first["msg"].replace("Input should be", "must be").replace("Input is", "is")
    return name, what.removeprefix("Value error, ")


class Settings(BaseSettings):
    """Settings of one process. Each is the environment variable `FISCUS_` and its name; an empty
    one is none."""

    model_config = SettingsConfigDict(env_prefix="FISCUS_", env_ignore_empty=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(3472, ge=1, le=65535, description="TCP port to listen on.")
    data_dir: Path = Field(
        Path("fiscus-data"), description="Folder of the SQLite file, keys and journals."
    )
    database_url: str | None = Field(
        None,
        description="postgresql://user:password@host/name, or sqlite:///path, in which %3F stands "
        "for `?` and %25 for `%`. Default: fiscus.db in the data folder.",
    )
    migration_database_url: str | None = Field(
        None,
        description="As database_url, for the owner of the tables, when the application's own "
        "login is not it.",
    )
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey that holds the counters of rate limits: redis://, rediss://, "
        "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port. "
        "Default: in this process, which then is the only one.",
    )
    counters_timeout_seconds: float = Field(
        0.01, gt=0, le=10, description="How long a check waits for counters in Redis."
    )
    sqlite_synchronous: Literal["FULL", "NORMAL", "OFF"] = Field(
        "FULL",
        description="FULL: a commit survives a power cut. NORMAL: it survives a crash of Fiscus. "
        "OFF: that too, but a power cut may damage the file; for tests.",
    )
    database_pool_size: int = Field(8, ge=1, le=100, description="Connections for reads.")
    bootstrap_admin_key: SecretStr | None = Field(
        None,
        description="A platform_admin API key given instead of made; at least 24 characters "
        "of visible ASCII.",
    )
    default_tenant: str = Field(
        "default", description="Tenant of the admin key, and of its calls that name none."
    )
    ledger_deadline_seconds: float = Field(
        2.0, gt=0, le=60, description="How long a caller waits for a durable decision."
    )
    ledger_max_queue: int = Field(
        20_000, ge=1, description="Operations that may wait; more are answered 503."
    )
    ledger_max_group: int = Field(512, ge=1, le=5000, description="Operations per commit, at most.")
    ledger_apart: bool | None = Field(
        None,
        description="Whether a server's ledger is a process of its own. Default: when one process "
        "serves, and the machine has a second core.",
    )
    max_body_bytes: int = Field(
        2_000_000, ge=1_000, description="Largest request body, in bytes; streams are not limited."
    )
    api_limit_tenant: int = Field(
        1000, ge=0, le=1_000_000_000, description="Calls a minute of a tenant; 0: no limit."
    )
    api_limit_user: int = Field(
        100, ge=0, le=1_000_000_000, description="Calls a minute of a token's subject; 0: no limit."
    )
    api_limit_api_key: int = Field(
        5000, ge=0, le=1_000_000_000, description="Calls a minute of an API key; 0: no limit."
    )
    api_limit_budget_checks: int = Field(
        20_000,
        ge=0,
        le=1_000_000_000,
        description="Budget checks a minute of a tenant, batches counted once; 0: no limit.",
    )
    api_limit_rate_limit_checks: int = Field(
        50_000,
        ge=0,
        le=1_000_000_000,
        description="Rate-limit checks a minute of a tenant, batches counted once; 0: no limit.",
    )
    api_limit_quota_checks: int = Field(
        20_000,
        ge=0,
        le=1_000_000_000,
        description="Quota checks a minute of a tenant, batches counted once; 0: no limit.",
    )
    api_limit_cost_records: int = Field(
        10_000,
        ge=0,
        le=1_000_000_000,
        description="Calls a minute of a tenant that record costs, batches and streams counted "
        "once; 0: no limit.",
    )
    api_limit_reports: int = Field(
        100, ge=0, le=1_000_000_000, description="Reports a minute of a tenant; 0: no limit."
    )
    rate_limit_usage_days: int = Field(
        90, ge=30, le=3660, description="How long the use of rate limits is kept, for reports."
    )
    quota_history_days: int = Field(
        400, ge=31, le=3660, description="How long the history of quotas is kept."
    )
    jwt_secret: SecretStr | None = Field(
        None, description="Secret of HS256 tokens; at least 32 bytes."
    )
    jwt_public_key: str | None = Field(
        None, description="PEM public key (or its path) of RS256, ES256 or EdDSA tokens."
    )
    jwt_jwks_url: str | None = Field(
        None, description="JWKS URL (https) of RS256, ES256 or EdDSA tokens."
    )
    jwt_issuer: str | None = Field(None, description="Required `iss` claim, when set.")
    jwt_audience: str | None = Field(None, description="Required `aud` claim, when set.")
    grpc_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="TCP port of Envoy's rate limit service; none: it is not served.",
    )
    envoy_mapping_file: Path | None = Field(
        None, description="YAML or JSON file: which check a descriptor of Envoy's stands for."
    )
    exchange_rates_file: Path | None = Field(
        None, description="A newer eurofxref-hist.zip of the European Central Bank."
    )
    exchange_rates: str | None = Field(
        None,
        description="Rates that hold on every day, both ways, before those of the European Central "
        "Bank: AED/USD=0.2723,GBP/EUR=1.17.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least serious log lines shown: debug, info, warning or error."
    )

    @field_validator("data_dir", mode="before")
    @classmethod
    def _names_a_folder(cls, value: object) -> object:
        """`Path("")` is the working folder, which nobody means who gives an empty name."""
        if value == "":
            raise ValueError("must not be empty")
        return value

    @property
    def resolved_database_url(self) -> str:
        if self.database_url is not None:
            return self.database_url
        # not `:memory:` or `file:…`, which a folder may be named and a database in a URL is not
        file = os.path.join(os.curdir, self.data_dir, "fiscus.db")  # noqa: PTH118 - Path drops `.`
        # SQLAlchemy reads the path as any URL's: a query begins at a `?`
        return f"sqlite:///{file.replace('%', '%25').replace('?', '%3F')}"
