-- Sends the bodies of a file, one per line, in turn; reports as one line of JSON.
-- A line may begin with an API key and a tab. Arguments: the file, the API key of the other lines,
-- how many milliseconds a connection pauses between requests, in the mean; 0 for not at all.

local requests = {}
local at = 0

function init(args)
  for line in io.lines(args[1]) do
    local key, body = line:match("^([^\t]+)\t(.*)$")
    local headers = { ["Content-Type"] = "application/json", ["X-API-Key"] = key or args[2] }
    requests[#requests + 1] = wrk.format("POST", nil, headers, body or line)
  end
  local pause = tonumber(args[3])
  if pause > 0 then
    delay = function() -- asked by wrk, when there is one
      return math.floor(-pause * math.log(1 - math.random()) + 0.5)
    end
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  local latencies = {}
  for i = 1, #latency do
    latencies[i] = string.format('"%d":%d', latency(i))
  end
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"failed":%d,"latencies":{%s}}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    table.concat(latencies, ",")))
end
