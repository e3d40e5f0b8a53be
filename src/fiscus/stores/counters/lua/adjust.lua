-- `MemoryCounters.adjust`: one take, whose counts are corrections, and then a look.

hold_strings()
local how_many, count = takes[1], takes[3]
local apart = takes[4] == 0
for i = 1, how_many do
    local ask = apart and 2 + 3 * i or 4 + i
    local rule, name = rules[takes[ask]], KEYS[i]
    if apart then count, takes[ask + 1] = takes[ask + 1], 0 end
    local before = held[name]
    if before == nil and rule[1] == 4 then before = held_log(name) end
    local state = ADJUST[rule[1]](rule, before, count, name)
    if state then replace(name, rule[1], state) end
end
takes[3] = 0
decide_all()
write_changed()
return cmsgpack.pack(reply)
