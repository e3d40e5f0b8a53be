#!lua
-- What every script begins with: its input, the time, and the counters that it holds meanwhile.
--
-- KEYS are counters, ARGV[1] is one MessagePack array: {now in microseconds or nil, rules, takes}.
-- A rule is {algorithm, window_us, four ceilings, shadow, ...}: drain, scale and unit_us follow for
-- buckets, the ends of calendar windows for fixed windows. Every number is whole and below 2^53,
-- where doubles add, subtract, multiply, and divide with floor and ceil without an error; no
-- product is formed that could be larger. A state is a table that is never changed, but replaced.

local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local call, pack, unpack_fields = redis.call, struct.pack, struct.unpack

local MAX_WHOLE = 9007199254740991
local FAR_US = MAX_WHOLE
local NEVER = -1

local input = cmsgpack.unpack(ARGV[1])
local rules, takes = input[2], input[3]
local now = input[1]
-- how long a counter is kept after it is unused again; a time that was given need not run with ours
local slack_seconds = 3600
if not now then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
    slack_seconds = 60
end

-- What the algorithms define, by number: token bucket, leaky bucket, fixed window, sliding log.
-- decide(rule, state, count, ceiling) gives allowed, remaining, wait_us, reset_us, delay_ms, state;
-- adjust(rule, state, count) gives the state; write(key, state, ttl) writes it, ttl in seconds.
local DECIDE, ADJUST, WRITE, UNUSED_FROM = {}, {}, {}, {}

-- Counters by key: what is held, false for none (nil: not looked at), and whose rule changed it.
local held, changed = {}, {}

-- In the store a state is its numbers as doubles: of a bucket five, of a window three, one string.
-- A log is a list, for which MGET answers false; `sliding_window_log.lua` reads it when it is used.
local function hold_strings()
    for from = 1, #KEYS, 1000 do
        local texts = call('MGET', unpack(KEYS, from, min(#KEYS, from + 999)))
        for i = 1, #texts do
            local text = texts[i]
            if text then
                local a, b, c, d, e
                if #text == 40 then
                    a, b, c, d, e = unpack_fields('<ddddd', text)
                else
                    a, b, c = unpack_fields('<ddd', text)
                end
                held[KEYS[from + i - 1]] = {a, b, c, d, e}
            end
        end
    end
end

local function replace(key, algorithm, state)
    held[key] = state
    changed[key] = algorithm
end

local function write_changed()
    local texts = {}
    for key, algorithm in pairs(changed) do
        local state = held[key]
        local left_us = max(0, UNUSED_FROM[algorithm](state) - now)
        local ttl = ceil(left_us / 1000000) + slack_seconds
        local text = texts[ttl]
        if not text then
            text = string.format('%.0f', ttl)
            texts[ttl] = text
        end
        WRITE[algorithm](key, state, text)
    end
end
