"""The pages people read: Swagger UI from local files, inside a strict content security policy."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from fiscus.errors import NotFound
from fiscus.http.openapi.document import served_at
from fiscus.http.replies import problem_reply
from fiscus.wire.paths import mount_of

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Scripts only from files of ours; Swagger UI sets some styles inline."""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fiscus API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """// The ids in the examples are of another server: those of what was made on this
// page take their place. Of that only, so that nobody deletes by a click what they looked at.
const DECIDED = ["reservation_id", "consumption_id", "record_id"];

function putInMade(response) {
  if (!response.ok || !response.obj) return response;
  const answers = [response.obj, ...(response.obj.results || [])];
  const made = response.status === 201
    ? Object.entries(response.obj).slice(0, 1)  // what was created begins with its id
    : answers.flatMap(Object.entries).filter(([name, id]) => DECIDED.includes(name) && id);
  made.forEach(([name, id]) => putIn(name, id));
  return response;
}

function putIn(name, id) {
  ui.specSelectors.specJson().get("paths").forEach((operations, path) => {
    operations.forEach((operation, method) => {
      operation.get("parameters").forEach((parameter) => {
        if (parameter.get("in") === "path" && parameter.get("name") === name) {
          ui.specActions.changeParamByIdentity([path, method], parameter, id, false);
        }
      });
      putIntoBody(name, id, operation, [path, method]);
    });
  });
}

// The example is the body of who has not opened the operation yet; what is typed stays.
function putIntoBody(name, id, operation, pathMethod) {
  const field = ["requestBody", "content", "application/json", "example", name];
  if (!operation.hasIn(field)) return;
  const place = ["paths", ...pathMethod];
  const document = ui.specSelectors.specJson().setIn([...place, ...field], id);
  // not by updateJsonSpec, which makes all operations anew, without the answers they show
  ui.getStore().dispatch({ type: "spec_update_json", payload: document.toJS() });
  if (ui.specSelectors.specResolvedSubtree(place)) ui.specActions.requestResolvedSubtree(place);
  const typed = ui.oas3Selectors.requestBodyValue(...pathMethod);
  if (!typed) return;
  const value = typed.replace(operation.getIn(field), id);
  ui.oas3Actions.setRequestBodyValue({ value, pathMethod });
}

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  layout: "BaseLayout",
  deepLinking: true,
  persistAuthorization: false,
  responseInterceptor: putInMade,
  validatorUrl: null,
});
"""
_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}


def docs_router(document: bytes) -> APIRouter:
    """`/docs` with its files, `/openapi.json` with `document`, and `/`, which leads to the docs."""
    router = APIRouter(include_in_schema=False)
    assets = files("fastapi_offline") / "static"

    @router.get("/", name="root")
    async def root() -> Response:
        return RedirectResponse("docs", status_code=307)

    @router.get("/docs", name="docs")
    async def page() -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @router.get("/openapi.json", name="openapi")
    async def openapi(request: Request) -> Response:
        mount = mount_of(request.scope)
        shown = served_at(mount, document) if mount else document
        return Response(shown, media_type="application/json")

    @router.get("/docs/start.js", name="docs_start")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript; charset=utf-8")

    @router.get("/docs/{name}", name="docs_asset")
    def asset(name: str, request: Request) -> Response:
        if name not in _TYPES:
            return problem_reply(
                NotFound("There is no such page", suggested_action="See /docs."), request
            )
        return Response(
            (assets / name).read_bytes(),
            media_type=_TYPES[name],
            headers={"Cache-Control": "public, max-age=86400"},
        )

    _ = (root, page, openapi, start, asset)
    return router
