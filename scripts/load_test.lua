-- What wrk sends for scripts/load_test, one thread: the questions of a file, from one of them on.
-- Arguments: the file, a request's body a line; the first question; seconds before counting; seconds of counting; and
-- the mean pause in milliseconds before each request of a connection, or 0.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } moment; int clock_gettime(int clock, moment *now);")
local moment = ffi.new("moment")
local requests, worker = {}, nil
local TOGETHER = 0.1  -- seconds

local function now()
  ffi.C.clock_gettime(1, moment)  -- CLOCK_MONOTONIC
  return tonumber(moment.s) + tonumber(moment.ns) / 1e9
end

function setup(thread)
  worker = thread
end

function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
  end
  index, good, first, last = tonumber(args[2]), 0, nil, 0
  begin = now() + tonumber(args[3])
  finish = begin + tonumber(args[4])
  local pause = tonumber(args[5])
  if pause > 0 then
    math.randomseed(index + 1)
    -- Exponential pauses: the arrivals of all connections together have no rhythm.
    function delay() return math.floor(-math.log(1 - math.random()) * pause + 0.5) end
  end
end

function request()
  index = index % #requests + 1
  return requests[index]
end

-- Counted between two moments under load: until wrk stops, the batch that runs just then would be lost. Both moments are
-- answers, and those that come along with the first one do not count: a server may give the answers of all connections at
-- once every few seconds.
function response(status)
  local time = now()
  if status == 200 and time >= begin and time < finish then
    if not first then first = time + TOGETHER end
    if time > first then good, last = good + 1, time end
  end
end

function done(summary, latency)
  local e = summary.errors
  local span = worker:get("last") - (worker:get("first") or 0)
  io.write(string.format('RESULT {"answers": %d, "span": %f, "p50": %f, "p90": %f, "p99": %f, "max": %f, "errors": ' ..
    '{"status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}}\n',
    worker:get("good"), span, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, e.status, e.connect, e.read, e.write, e.timeout))
end
