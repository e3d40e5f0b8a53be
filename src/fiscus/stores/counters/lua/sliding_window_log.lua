-- `ratelimits/sliding_window_log.py`.
-- In the store a list: {at_us, window_us, used} first, then {time, count} for each hit, oldest
-- first. A hit is appended, forgotten ones are cut off, and nothing else is ever rewritten.
-- State: {at_us, window_us, used, hits, first, stop}: hits from `first` to before `stop`. States
-- share `hits`, which fetches what is looked at: {times, counts, key, how many are stored}.

local CHUNK = 16

local function fetch(hits, from, to)
    local texts = call('LRANGE', hits.key, from, to)
    for i = 1, #texts do
        local index = from + i - 1
        -- what is known already may have been corrected
        if not hits.times[index] then
            hits.times[index], hits.counts[index] = unpack_fields('<dd', texts[i])
        end
    end
    return #texts
end

local function time_of(hits, index)
    if not hits.times[index] then fetch(hits, index, index + 4 * CHUNK) end
    return hits.times[index]
end

local function held_log(key)
    local state = held[key]
    if state ~= nil then return state end
    local header = call('LINDEX', key, 0)
    if header then
        local at_us, window_us, used = unpack_fields('<ddd', header)
        local hits = {key = key, times = {}, counts = {}}
        hits.stored = fetch(hits, 1, CHUNK)
        if hits.stored == CHUNK then hits.stored = call('LLEN', key) - 1 end
        state = {at_us, window_us, used, hits, 1, hits.stored + 1}
    else
        state = false
    end
    held[key] = state
    return state
end

-- where the hits begin that still count, and how many requests they are
local function live(state, window_us, at_us)
    local hits, first, stop, used = state[4], state[5], state[6], state[3]
    while first < stop and time_of(hits, first) + window_us <= at_us do
        used = used - hits.counts[first]
        first = first + 1
    end
    return first, used
end

local function with_hit(state, key, first, used, at_us, window_us, count)
    local hits, stop
    if state then
        hits, stop = state[4], state[6]
    else
        hits, stop = {key = key, times = {}, counts = {}}, 1
    end
    hits.times[stop], hits.counts[stop] = at_us, count
    return {at_us, window_us, used, hits, first, stop + 1}
end

-- the moment at which `wanted` requests have left the window
local function when_free(state, first, wanted)
    local hits = state[4]
    while true do
        local time = time_of(hits, first)
        wanted = wanted - hits.counts[first]
        if wanted <= 0 then return time + state[2] end
        first = first + 1
    end
end

local function log_unused_from(state)
    if state[6] == state[5] then return state[1] end
    return time_of(state[4], state[6] - 1) + state[2]
end

local function log_reset(state, used)
    if not state or used == 0 then return now end
    return max(now, log_unused_from(state))
end

DECIDE[4] = function(rule, state, count, ceiling, key)
    local window_us = rule[2]
    local at_us, first, used = now, 1, 0
    if state then
        at_us = max(now, state[1])
        first, used = live(state, state[2], at_us)
        if state[2] ~= window_us then
            state = {at_us, window_us, used, state[4], first, state[6]}
            first, used = live(state, window_us, at_us)
        end
    end
    local remaining = max(0, ceiling - used)
    if count <= remaining then
        if count > 0 then
            used = used + count
            state = with_hit(state, key, first, used, at_us, window_us, count)
        end
        return true, remaining - count, 0, log_reset(state, used), 0, state
    end
    local wait_us = NEVER
    if count <= ceiling then wait_us = when_free(state, first, used + count - ceiling) - now end
    return false, remaining, wait_us, log_reset(state, used), 0, state
end

ADJUST[4] = function(rule, state, count, key)
    local at_us, first, used = now, 1, 0
    if state then
        at_us = max(now, state[1])
        first, used = live(state, state[2], at_us)
    end
    if count > 0 then
        count = min(count, MAX_WHOLE - used)
        return with_hit(state, key, first, used + count, at_us, rule[2], count)
    end
    if not state then return nil end
    local hits, stop = state[4], state[6]
    local gone = min(used, -count)
    local left = gone
    while left > 0 do
        time_of(hits, stop - 1)
        if hits.counts[stop - 1] > left then
            hits.counts[stop - 1] = hits.counts[stop - 1] - left
            hits.lowered = stop - 1
            break
        end
        left = left - hits.counts[stop - 1]
        stop = stop - 1
    end
    return {at_us, rule[2], used - gone, hits, first, stop}
end

WRITE[4] = function(key, state, ttl)
    local hits, first, stop = state[4], state[5], state[6]
    local function hit(index) return pack('<dd', hits.times[index], hits.counts[index]) end
    local header = pack('<ddd', state[1], state[2], state[3])
    local stored = hits.stored
    if stored then
        -- a hit's index in the list is its own; the header takes the place before the first kept
        local kept = min(stored, stop - 1)
        if first > 1 or kept < stored then call('LTRIM', key, first - 1, kept) end
        call('LSET', key, 0, header)
        local lowered = hits.lowered
        if lowered then
            call('LSET', key, lowered - first + 1, hit(lowered))
        end
    else
        stored = 0
        call('RPUSH', key, header)
    end
    for from = stored + 1, stop - 1, 1000 do
        local texts = {}
        for index = from, min(stop - 1, from + 999) do
            texts[#texts + 1] = hit(index)
        end
        call('RPUSH', key, unpack(texts))
    end
    call('EXPIRE', key, ttl)
end

UNUSED_FROM[4] = log_unused_from
