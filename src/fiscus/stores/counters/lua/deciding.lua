-- `deciding.decide_together`, take by take.
--
-- Takes are one flat array: for each how many rules, gated (0 or 1), count, priority (1 to 4), then
-- the number of each of its rules. Priority 0: each rule's number is followed by its own count and
-- priority. KEYS are in the same order. The reply is flat as well: -1 for a take not reached; else 1
-- (admitted) or 0, then for each rule allowed (1 or 0), remaining, wait_us (-1: never), reset_us,
-- delay_ms.

local reply, size = {}, 0
local befores, afters = {}, {}

-- `place` is before the take's first rule, `key` before its first key
local function decide_together(place, key, count, priority, how_many)
    local admitted = true
    local head = size + 1
    local at = head
    local apart = priority == 0
    local stride = apart and 3 or 1
    for i = 1, how_many do
        local ask = place + 1 + stride * (i - 1)
        if apart then count, priority = takes[ask + 1], takes[ask + 2] end
        local rule, name = rules[takes[ask]], KEYS[key + i]
        local algorithm = rule[1]
        local before = held[name]
        if before == nil and algorithm == 4 then before = held_log(name) end
        local allowed, remaining, wait_us, reset_us, delay_ms, after =
            DECIDE[algorithm](rule, before, count, rule[2 + priority], name)
        if not allowed and not rule[7] then admitted = false end
        befores[i], afters[i] = before, after
        reply[at + 1] = allowed and 1 or 0
        reply[at + 2], reply[at + 3] = remaining, wait_us
        reply[at + 4], reply[at + 5] = reset_us, delay_ms
        at = at + 5
    end
    at = head
    for i = 1, how_many do
        local ask = place + 1 + stride * (i - 1)
        if apart then priority = takes[ask + 2] end
        local rule, name, before = rules[takes[ask]], KEYS[key + i], befores[i]
        if not admitted and reply[at + 1] == 1 then
            -- another rule denies: this one had room, and says what is left of it
            local _
            _, reply[at + 2], reply[at + 3], reply[at + 4], reply[at + 5], afters[i] =
                DECIDE[rule[1]](rule, before, 0, rule[2 + priority], name)
        end
        -- of several asks on one counter, a denied one leaves what another took
        if afters[i] ~= before and (reply[at + 1] == 1 or held[name] == before) then
            replace(name, rule[1], afters[i])
        end
        at = at + 5
    end
    reply[head] = admitted and 1 or 0
    size = head + 5 * how_many
    return admitted
end

local function decide_all()
    local place, key, admitted = 1, 0, true
    local last = #takes
    while place <= last do
        local how_many, priority = takes[place], takes[place + 3]
        if takes[place + 1] == 1 and not admitted then
            size = size + 1
            reply[size] = -1
        else
            admitted = decide_together(
                place + 3, key, takes[place + 2], priority, how_many)
        end
        place = place + 4 + how_many * (priority == 0 and 3 or 1)
        key = key + how_many
    end
end
