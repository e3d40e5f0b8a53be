-- `MemoryCounters.decide_all`, with the functions of `deciding.lua`.

hold_strings()
decide_all()
write_changed()
return cmsgpack.pack(reply)
