-- `ratelimits/sliding_window_log.py`.
-- In the store a list: {at_us, window_us, used, total} first, then {time, total before it} for each
-- hit, oldest first. A hit is appended, forgotten ones are cut off, and nothing else is ever
-- rewritten. Totals begin again at 0 after MAX_WHOLE.
-- State: {at_us, window_us, used, hits, first, stop, total}: hits from `first` to before `stop`.
-- States share `hits`, which fetches what is looked at: {times, befores, key, how many are stored}.

local CHUNK = 16
local ROUND = MAX_WHOLE + 1
local HEADER_BYTES = 32

local function plus(total, count)
    if total >= ROUND - count then return total - (ROUND - count) end
    return total + count
end

local function minus(total, count)
    if total >= count then return total - count end
    return total + (ROUND - count)
end

local function fetch(hits, from, to)
    local texts = call('LRANGE', hits.key, from, to)
    for i = 1, #texts do
        local index = from + i - 1
        hits.times[index], hits.befores[index] = unpack_fields('<dd', texts[i])
    end
    return #texts
end

local function time_of(hits, index)
    if not hits.times[index] then fetch(hits, index, index + CHUNK) end
    return hits.times[index]
end

local function before_of(hits, index)
    if not hits.times[index] then fetch(hits, index, index + CHUNK) end
    return hits.befores[index]
end

-- the first index from `first` to `stop` at which a number of the hits, which grows, is not `less`
local function find(hits, first, stop, less)
    while first < stop do
        local middle = floor((first + stop) / 2)
        if not hits.times[middle] then fetch(hits, middle, middle) end
        if less(middle) then first = middle + 1 else stop = middle end
    end
    return first
end

local function held_log(key)
    local state = held[key]
    if state ~= nil then return state end
    local header = call('LINDEX', key, 0)
    if header and #header == HEADER_BYTES then
        local at_us, window_us, used, total = unpack_fields('<dddd', header)
        local hits = {key = key, times = {}, befores = {}}
        hits.stored = fetch(hits, 1, CHUNK)
        if hits.stored == CHUNK then hits.stored = call('LLEN', key) - 1 end
        state = {at_us, window_us, used, hits, 1, hits.stored + 1, total}
    else
        -- a log of another form: it begins again
        if header then call('DEL', key) end
        state = false
    end
    held[key] = state
    return state
end

-- where the hits begin that still count, and how many requests they are
local function live(state, window_us, at_us)
    local hits, first, stop = state[4], state[5], state[6]
    local gone_us = at_us - window_us
    if first == stop or time_of(hits, first) > gone_us then return first, state[3] end
    first = first + 1 -- most often one has left
    if first < stop and time_of(hits, first) <= gone_us then
        first = find(hits, first, stop, function(index) return hits.times[index] <= gone_us end)
    end
    if first == stop then return first, 0 end
    return first, minus(state[7], before_of(hits, first))
end

local function with_hit(state, key, first, used, at_us, window_us, count)
    local hits, stop, total
    if state then
        hits, stop, total = state[4], state[6], state[7]
    else
        hits, stop, total = {key = key, times = {}, befores = {}}, 1, 0
    end
    hits.times[stop], hits.befores[stop] = at_us, total
    return {at_us, window_us, used, hits, first, stop + 1, plus(total, count)}
end

-- the first index from `first` on with at least so many requests between the two
local function after(state, first, requests)
    local hits = state[4]
    local begin = before_of(hits, first)
    return find(hits, first, state[6], function(index)
        return minus(hits.befores[index], begin) < requests
    end)
end

-- the moment at which `wanted` requests have left the window
local function when_free(state, first, wanted)
    local hits = state[4]
    -- most often the oldest hit is enough
    if first + 1 < state[6]
        and minus(before_of(hits, first + 1), before_of(hits, first)) < wanted then
        first = after(state, first, wanted) - 1
    end
    return time_of(hits, first) + state[2]
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
            state = {at_us, window_us, used, state[4], first, state[6], state[7]}
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
    local gone = min(used, -count)
    used = used - gone
    local stop = first
    if used > 0 then stop = after(state, first, used) end
    return {at_us, rule[2], used, state[4], first, stop, minus(state[7], gone)}
end

WRITE[4] = function(key, state, ttl)
    local hits, first, stop = state[4], state[5], state[6]
    local header = pack('<dddd', state[1], state[2], state[3], state[7])
    local stored = hits.stored
    if stored then
        -- a hit's index in the list is its own; the header takes the place before the first kept
        local kept = min(stored, stop - 1)
        if first > 1 or kept < stored then call('LTRIM', key, first - 1, kept) end
        call('LSET', key, 0, header)
    else
        stored = 0
        call('RPUSH', key, header)
    end
    for from = stored + 1, stop - 1, 1000 do
        local texts = {}
        for index = from, min(stop - 1, from + 999) do
            texts[#texts + 1] = pack('<dd', hits.times[index], hits.befores[index])
        end
        call('RPUSH', key, unpack(texts))
    end
    call('EXPIRE', key, ttl)
end

UNUSED_FROM[4] = log_unused_from
