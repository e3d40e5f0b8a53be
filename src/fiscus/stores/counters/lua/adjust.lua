-- `MemoryCounters.adjust`: one take, whose count is the correction, and then a look.

hold_strings()
local how_many, count = takes[1], takes[3]
for i = 1, how_many do
    local rule, name = rules[takes[4 + i]], KEYS[i]
    local before = held[name]
    if before == nil and rule[1] == 4 then before = held_log(name) end
    local state = ADJUST[rule[1]](rule, before, count, name)
    if state then replace(name, rule[1], state) end
end
takes[3] = 0
decide_all()
write_changed()
return cmsgpack.pack(reply)
