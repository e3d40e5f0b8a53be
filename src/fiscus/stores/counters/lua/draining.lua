-- `ratelimits/draining.py`: a level that drains at a steady rate.
-- State: {at_us, level, drain, scale, unit_us}.

-- ceil(level * scale / old_scale), at most what a level can be; the product does not fit a double,
-- so it is formed and divided bit by bit
local function rescaled(level, scale, old_scale)
    local most = floor(MAX_WHOLE / scale)
    local whole = floor(level / old_scale)
    if whole >= most then return most * scale end
    local rest = level - whole * old_scale
    local quotient, remainder = 0, 0
    local bit, left = 1, scale
    while bit * 2 <= scale do bit = bit * 2 end
    while bit >= 1 do
        quotient, remainder = quotient * 2, remainder * 2
        if remainder >= old_scale then
            quotient, remainder = quotient + 1, remainder - old_scale
        end
        if left >= bit then
            left, remainder = left - bit, remainder + rest
            if remainder >= old_scale then
                quotient, remainder = quotient + 1, remainder - old_scale
            end
        end
        bit = bit / 2
    end
    if remainder > 0 then quotient = quotient + 1 end
    return whole * scale + quotient
end

local function later(at, units, unit_us)
    local moment = at + units
    if moment > floor(FAR_US / unit_us) then return FAR_US end
    return moment * unit_us
end

-- at, in units of time, and the level then
local function drained(state)
    local level, drain, unit_us = state[2], state[3], state[5]
    local at = state[1] / unit_us
    local elapsed = floor(now / unit_us) - at
    if elapsed > 0 then
        at = at + elapsed
        if elapsed >= ceil(level / drain) then
            level = 0
        else
            level = level - elapsed * drain
        end
    end
    return at, level
end

local function has_rate(state, rule)
    return state[3] == rule[8] and state[4] == rule[9] and state[5] == rule[10]
end

local function rebased(state, rule)
    local unit_us = rule[10]
    local at, level = drained(state)
    local moment = max(at * state[5], now) / unit_us
    if level == 0 then moment = floor(moment) else moment = ceil(moment) end
    return {moment * unit_us, rescaled(level, rule[9], state[4]), rule[8], rule[9], unit_us}
end

local function delay_of(level, drain, unit_us)
    local most = floor(FAR_US / 1000)
    if unit_us == 1 then return min(most, ceil(level / (drain * 1000))) end
    if unit_us == 1000 then return min(most, ceil(level / drain)) end
    local whole = floor(level / drain)
    if whole > most / 1000 then return most end
    return min(most, whole * 1000 + ceil((level - whole * drain) * 1000 / drain))
end

local function decide_level(rule, state, count, ceiling, shaped)
    local drain, scale, unit_us = rule[8], rule[9], rule[10]
    local at, level
    if state then
        if not has_rate(state, rule) then state = rebased(state, rule) end
        at, level = drained(state)
    else
        at, level = floor(now / unit_us), 0
    end
    local remaining = max(0, floor((ceiling * scale - level) / scale))
    if count <= remaining then
        local delay_ms = shaped and delay_of(level, drain, unit_us) or 0
        if count > 0 then
            level = level + count * scale
            state = {at * unit_us, level, drain, scale, unit_us}
        end
        local reset_us = max(now, later(at, ceil(level / drain), unit_us))
        return true, remaining - count, 0, reset_us, delay_ms, state
    end
    local wait_us = NEVER
    if count <= ceiling then
        local over = level - (ceiling - count) * scale
        wait_us = later(at, ceil(over / drain), unit_us) - now
    end
    return false, remaining, wait_us, max(now, later(at, ceil(level / drain), unit_us)), 0, state
end

local function adjust_level(rule, state, count)
    local drain, scale, unit_us = rule[8], rule[9], rule[10]
    local at, level = floor(now / unit_us), 0
    if state then
        if not has_rate(state, rule) then state = rebased(state, rule) end
        at, level = drained(state)
    end
    local most = floor(MAX_WHOLE / scale) * scale
    if count >= ceil((most - level) / scale) then
        level = most
    elseif -count >= ceil(level / scale) then
        level = 0
    else
        level = level + count * scale
    end
    return {at * unit_us, level, drain, scale, unit_us}
end

local function level_unused_from(state)
    return later(state[1] / state[5], ceil(state[2] / state[3]), state[5])
end

local function write_level(key, state, ttl)
    local text = pack('<ddddd', state[1], state[2], state[3], state[4], state[5])
    call('SET', key, text, 'EX', ttl)
end
