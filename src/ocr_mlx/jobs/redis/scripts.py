"""What Redis must do at once or not at all, in its own language. `KEYS[1]` is always the job's record.

A job that is unknown answers false, which Redis turns into nil. Times of claims are Redis' own clock, in milliseconds; a claim
that reaches farther than claims do was made before that clock was set back, and holds no more.
"""

from __future__ import annotations

from typing import Final

_STATE: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return false end
local final = state ~= 'pending' and state ~= 'processing'
"""

_CLOCK: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

BEGIN: Final = (
    _STATE
    + """
if state == 'pending' then redis.call('HSET', KEYS[1], 'state', 'processing', 'started', ARGV[1], 'updated', ARGV[1]) end
return 1
"""
)
"""ARGV: Unix seconds."""

PUT_PAGE: Final = (
    _STATE
    + """
if final or redis.call('SADD', KEYS[3], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
for i = 4, #ARGV do redis.call('SADD', KEYS[3], ARGV[i]) end
redis.call('HSET', KEYS[1], 'done', redis.call('SCARD', KEYS[3]), 'updated', ARGV[1])
return 1
"""
)
"""KEYS: job, pages, indices that are read. ARGV: Unix seconds, index, its record, the indices that were read with it."""

FINISH: Final = (
    _STATE
    + """
if final then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'finished', ARGV[2], 'updated', ARGV[2], 'error', ARGV[4], 'record', ARGV[5])
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('ZREM', KEYS[6], ARGV[1])
local ttl = redis.call('HGET', KEYS[1], 'ttl') or ARGV[7]
redis.call('ZADD', KEYS[7], ARGV[2] + ttl, ARGV[1])
if ARGV[6] == '1' then redis.call('ZADD', KEYS[8], ARGV[2], ARGV[1]) end
local left = string.format('%.0f', (ttl + ARGV[8]) * 1000)
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], left) end
return 1
"""
)
"""KEYS: job, pages, read, units, document, open, final, webhooks.

ARGV: id, Unix seconds, state, error, record, webhook?, seconds to live where the job has none of its own, and how many more
before Redis removes it by itself."""

DELETE: Final = """
local known = redis.call('EXISTS', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
for i = 6, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
return known
"""
"""KEYS: the job's, then the indexes. ARGV: id."""

DELIVER: Final = (
    _STATE
    + """
if redis.call('HGET', KEYS[1], 'delivery') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'delivery', ARGV[3])
if ARGV[4] == '' then redis.call('ZREM', KEYS[2], ARGV[1])
elseif final then redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1]) end
return 1
"""
)
"""KEYS: job, webhooks. ARGV: id, the record as it was, as it is to be, when it is due (Unix seconds) or nothing."""

DUE: Final = """
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
for _, id in ipairs(found) do redis.call('ZADD', KEYS[1], ARGV[2], id) end
return found
"""
"""KEYS: webhooks. ARGV: Unix seconds now, and when they may be handed out again."""

CLAIM: Final = (
    _STATE
    + """
if final then return {'final'} end
local missing = {}
for i = 5, #ARGV do
  if redis.call('SISMEMBER', KEYS[3], ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
end
if #missing == 0 then return {'done'} end
"""
    + _CLOCK
    + """
local claim = redis.call('HGET', KEYS[2], 'claim:' .. ARGV[1])
if claim then
  local till, owner = string.match(claim, '^(%d+) (.*)$')
  if owner ~= ARGV[2] and tonumber(till) > now and tonumber(till) <= now + ARGV[3] then return {'taken'} end
end
redis.call('HSET', KEYS[2], 'claim:' .. ARGV[1], string.format('%.0f %s', now + ARGV[3], ARGV[2]))
if state == 'pending' then redis.call('HSET', KEYS[1], 'state', 'processing', 'started', ARGV[4], 'updated', ARGV[4]) end
return {'yours', redis.call('HINCRBY', KEYS[2], 'tries:' .. ARGV[1], 1), missing}
"""
)
"""KEYS: job, units, read. ARGV: unit, owner, milliseconds, Unix seconds, the unit's indices."""

RENEW: Final = (
    _STATE
    + """
if final then return 0 end
"""
    + _CLOCK
    + """
local claim = redis.call('HGET', KEYS[2], 'claim:' .. ARGV[1])
local held, owner = string.match(claim or '0 ', '^(%d+) (.*)$')
if owner ~= ARGV[2] and tonumber(held) > now and tonumber(held) <= now + ARGV[3] then return 0 end
local till = string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[2], 'claim:' .. ARGV[1], till .. ' ' .. ARGV[2])
if ARGV[4] == '1' then redis.call('HSET', KEYS[2], 'reads:' .. ARGV[1], till) end
return 1
"""
)
"""KEYS: job, units. ARGV: unit, owner, milliseconds, '1' when it is being decoded. 0: there is nothing to go on with."""

RELEASE: Final = (
    _STATE
    + """
if final then return 0 end
local claim = redis.call('HGET', KEYS[2], 'claim:' .. ARGV[1])
if not claim or string.match(claim, '^%d+ (.*)$') ~= ARGV[2] then return 0 end
"""
    + _CLOCK
    + """
redis.call('HDEL', KEYS[2], 'claim:' .. ARGV[1], 'reads:' .. ARGV[1])
redis.call('HSET', KEYS[2], 'rest:' .. ARGV[1], string.format('%.0f', now + ARGV[3]))
if ARGV[4] == '1' then redis.call('HINCRBY', KEYS[2], 'tries:' .. ARGV[1], -1) end
return 1
"""
)
"""KEYS: job, units. ARGV: unit, owner, milliseconds before it is queued again, '1' when this was no try."""

SENT: Final = (
    _STATE
    + """
if final then return 0 end
"""
    + _CLOCK
    + """
redis.call('HINCRBY', KEYS[2], 'sends:' .. ARGV[1], 1)
redis.call('HSET', KEYS[2], 'sent:' .. ARGV[1], string.format('%.0f %s', now, ARGV[2]))
return 1
"""
)
"""KEYS: job, units. ARGV: unit, the message's id in the queue."""

PROGRESSED: Final = (
    _STATE
    + """
if final then return 0 end
redis.call('HSET', KEYS[2], 'tries:' .. ARGV[1], 1)
return 1
"""
)
"""KEYS: job, units. ARGV: unit."""

WORKED: Final = (
    _STATE
    + """
if final then return '0' end
return redis.call('HINCRBYFLOAT', KEYS[1], 'worked', ARGV[1])
"""
)
"""ARGV: seconds."""

SCRIPTS: Final = {
    "begin": BEGIN,
    "put_page": PUT_PAGE,
    "finish": FINISH,
    "delete": DELETE,
    "deliver": DELIVER,
    "due": DUE,
    "claim": CLAIM,
    "renew": RENEW,
    "release": RELEASE,
    "sent": SENT,
    "progressed": PROGRESSED,
    "worked": WORKED,
}
