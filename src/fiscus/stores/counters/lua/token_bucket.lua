-- `ratelimits/token_bucket.py`

DECIDE[1] = function(rule, state, count, ceiling)
    return decide_level(rule, state, count, ceiling, false)
end
ADJUST[1] = adjust_level
WRITE[1] = write_level
UNUSED_FROM[1] = level_unused_from
