-- `ratelimits/fixed_window.py`. State: {at_us, end_us, used}.

local function window_end(rule, at_us)
    local window_us, count = rule[2], #rule
    if count == 7 then return (floor(at_us / window_us) + 1) * window_us end
    for i = 8, count do
        if at_us < rule[i] then return rule[i] end
    end
    return rule[count] + (floor((at_us - rule[count]) / window_us) + 1) * window_us
end

DECIDE[3] = function(rule, state, count, ceiling)
    local at_us = state and max(now, state[1]) or now
    local end_us = window_end(rule, at_us)
    local used = 0
    if state and at_us < state[2] then
        used = state[3]
        if state[2] ~= end_us then state = {at_us, end_us, used} end
    end
    local remaining = max(0, ceiling - used)
    if count <= remaining then
        if count > 0 then
            used = used + count
            state = {at_us, end_us, used}
        end
        return true, remaining - count, 0, used > 0 and end_us or now, 0, state
    end
    local wait_us = count <= ceiling and end_us - now or NEVER
    return false, remaining, wait_us, used > 0 and end_us or now, 0, state
end

ADJUST[3] = function(rule, state, count)
    local at_us = state and max(now, state[1]) or now
    local used = state and at_us < state[2] and state[3] or 0
    return {at_us, window_end(rule, at_us), max(0, min(MAX_WHOLE, used + count))}
end

WRITE[3] = function(key, state, ttl)
    call('SET', key, pack('<ddd', state[1], state[2], state[3]), 'EX', ttl)
end
UNUSED_FROM[3] = function(state) return state[2] end
