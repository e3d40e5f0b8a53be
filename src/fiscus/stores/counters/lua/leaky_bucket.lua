-- `ratelimits/leaky_bucket.py`

DECIDE[2] = function(rule, state, count, ceiling)
    return decide_level(rule, state, count, ceiling, true)
end
ADJUST[2] = adjust_level
WRITE[2] = write_level
UNUSED_FROM[2] = level_unused_from
