-- Sends the bodies of a file, one per line, in turn; reports as one line of JSON.
-- A line may begin with an API key and a tab. Arguments: the file, the API key of the other lines.

local requests = {}
local at = 0

function init(args)
  for line in io.lines(args[1]) do
    local key, body = line:match("^([^\t]+)\t(.*)$")
    local headers = { ["Content-Type"] = "application/json", ["X-API-Key"] = key or args[2] }
    requests[#requests + 1] = wrk.format("POST", nil, headers, body or line)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"failed":%d}\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(95), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
