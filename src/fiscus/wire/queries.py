"""Query parameters that many calls have, for a domain's own to begin with."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fiscus.paging import MAX_PAGE, MAX_PAGE_SIZE, PageRequest, page_request
from fiscus.wire.texts import NO_NUL, Id

_Page = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
_PageSize = Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE)]
_PageToken = Annotated[str, Meta(max_length=2048)]

ScopeId = Annotated[str, Meta(max_length=128, pattern=NO_NUL)]
"""The id of a scope, or `*`."""


class TenantQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tenant_id: Annotated[
        Id | None,
        Meta(description="Default: the credential's tenant; another one: platform_admin only."),
    ] = None


class PageQuery(TenantQuery, frozen=True, kw_only=True):
    page: Annotated[_Page | None, Meta(description="Number of the page, from 1.")] = None
    page_size: Annotated[_PageSize | None, Meta(description="Items per page; default 100.")] = None
    page_token: Annotated[
        _PageToken | None,
        Meta(description="`next_page_token` or `prev_page_token` of a page."),
    ] = None

    def wanted_page(self) -> PageRequest:
        return page_request(self.page, self.page_size, self.page_token)
