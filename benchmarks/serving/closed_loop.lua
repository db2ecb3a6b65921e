-- wrk: posts the files named after "--" in turn, and prints what it measured as one line of JSON.
local bodies, turn = {}, 0
local path

function init(args)
  path = wrk.path
  for i = 1, #args do
    local file = assert(io.open(args[i], "rb"))
    bodies[i] = wrk.format("POST", path, {["Content-Type"] = "image/jpeg"}, file:read("*all"))
    file:close()
  end
end

function request()
  turn = turn % #bodies + 1
  return bodies[turn]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"answers": %d, "seconds": %f, "failures": %d, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
