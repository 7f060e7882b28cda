/* SPDX-License-Identifier: MIT */
/*
 * cluster_scripts.c - what must happen in Redis in one go, as Lua. Each script works on the keys of
 * one conversation, of one user, or of the list of nodes: one hash slot, so that it runs unchanged
 * on a Redis Cluster.
 *
 * A conversation K, as the log names it (`g:ID`, `p:A:B`):
 *   jim:{c:K}    stream: entry SEQ-0 holds t (stored at, ms), c (createTime), f (from), j (the
 * chat)
 *   jim:{c:K}:g  hash: seq (the last), t (of the last); of a group id, name, life, gone
 *   jim:{c:K}:d  hash: user -> "CURSOR LO HI": delivered up to CURSOR, and besides LO..HI
 *   jim:{c:K}:m  a group's members: sorted set, 0 who is online, 1 who is not
 *   jim:{c:K}:o  hash: who of them is online -> ",NODE,NODE,"
 *   jim:{c:K}:n  hash: node -> how many of them are there: where a message has to go
 *   jim:{c:K}:i:FROM:ID  "SEQ CREATETIME" of a message that may be sent again, for 24 hours
 * A user U, escaped in the same way:
 *   jim:{u:U}    hash: p (what is known of him, as REC_USER has it)
 *   jim:{u:U}:g, :p  sets: his groups and pairs, each of them or more
 *   jim:{u:U}:n  hash: node -> "CONNECTIONS TERMINAL"
 * Nodes: jim:{s:nodes} sorted set: node -> when its lease ends, ms of Redis's clock; :i hash: what
 * each says of itself; :r sorted set: whose users are being taken off. jim:{n:NODE} is a node's
 * inbox (stream), jim:{n:NODE}:u the set of its users.
 */
#include "jim.h"

/* Merge a delivered range into what is known; a second range that does not touch the first takes
 * its place: that costs a second delivery, never a loss. */
#define DELIVERED \
    "local function delivered(key,user,cur,lo,hi)\n" \
    " local d=redis.call('HGET',key,user)\n" \
    " local c,l,h=0,0,0\n" \
    " if d then\n" \
    "  c,l,h=string.match(d,'^(%d+) (%d+) (%d+)')\n" \
    "  c,l,h=tonumber(c),tonumber(l),tonumber(h)\n" \
    " end\n" \
    " if cur>c then c=cur end\n" \
    " if hi>0 then\n" \
    "  if h>0 and lo<=h+1 and l<=hi+1 then\n" \
    "   if lo<l then l=lo end\n" \
    "   if hi>h then h=hi end\n" \
    "  elseif lo<=c+1 then\n" \
    "   if hi>c then c=hi end\n" \
    "  else l,h=lo,hi end\n" \
    " end\n" \
    " if h>0 and l<=c+1 then\n" \
    "  if h>c then c=h end\n" \
    "  l,h=0,0\n" \
    " end\n" \
    " local s=c..' '..l..' '..h\n" \
    " if s~=d then redis.call('HSET',key,user,s) end\n" \
    "end\n"

/* Take a user off one node in a group; is he off the group then? */
#define OFF_NODE \
    "local function off(user,node)\n" \
    " local at=redis.call('HGET',KEYS[4],user)\n" \
    " local from,to\n" \
    " if at then from,to=string.find(at,','..node..',',1,true) end\n" \
    " if not from then return 0 end\n" \
    " if redis.call('HINCRBY',KEYS[5],node,-1)<=0 then redis.call('HDEL',KEYS[5],node) end\n" \
    " at=string.sub(at,1,from)..string.sub(at,to+1)\n" \
    " if at~=',' then\n" \
    "  redis.call('HSET',KEYS[4],user,at)\n" \
    "  return 0\n" \
    " end\n" \
    " redis.call('HDEL',KEYS[4],user)\n" \
    " redis.call('ZADD',KEYS[2],'XX',1,user)\n" \
    " return 1\n" \
    "end\n"

/* Old messages go, some at a time, oldest first: faster than new ones come. */
#define TRIM \
    "local function trim(stream,before)\n" \
    " if before<=0 then return end\n" \
    " local old\n" \
    " for _,e in ipairs(redis.call('XRANGE',stream,'-','+','COUNT',64)) do\n" \
    "  if tonumber(e[2][2])>=before then break end\n" \
    "  old=tonumber(string.match(e[1],'^%d+'))\n" \
    " end\n" \
    " if old then redis.call('XTRIM',stream,'MINID',(old+1)..'-0') end\n" \
    "end\n"

#define PUT_NODES_OF(key) \
    "for _,n in ipairs(redis.call('HKEYS'," key ")) do out[#out+1]=n end\n" \
    "return out\n"
#define PUT_NODES PUT_NODES_OF("KEYS[5]")

/* ms between two messages: the later one follows closely. Ample: each time is by its node's clock,
 * and all it costs is a moment's wait (arrive()). */
#define FOLLOWS "5000"

/*
 * KEYS stream :g, :m (of a pair: :d) :n, retry key; ARGV from, now, createTime, head, tail of the
 * chat's JSON with the seq between them, flags (g a group, m only a member may, c it is made, r
 * look for an earlier one), keep since, receiver. -> code, seq, createTime, 1: sent before, its
 * JSON then ("": its receiver has had it, or it is no longer kept), 1: it follows closely on the
 * one before it, nodes of the group.
 */
static const char script_send[] = TRIM
    "local flags=ARGV[6]\n"
    "local group=string.find(flags,'g',1,true)\n"
    "if group then\n"
    " if string.find(flags,'m',1,true) and not redis.call('ZSCORE',KEYS[3],ARGV[1]) then\n"
    "  return {10024}\n"
    " end\n"
    " local g=redis.call('HMGET',KEYS[2],'id','gone')\n"
    " if g[2] or (not g[1] and not string.find(flags,'c',1,true)) then return {10030} end\n"
    "end\n"
    "local out\n"
    "local hit=string.find(flags,'r',1,true) and redis.call('GET',KEYS[5])\n"
    "if hit then\n"
    " local seq,create=string.match(hit,'^(%d+) (-?%d+)')\n"
    " local e=redis.call('XRANGE',KEYS[1],seq..'-0',seq..'-0')[1]\n"
    " local j=e and e[2][8] or ''\n"
    " local d=not group and redis.call('HGET',KEYS[3],ARGV[8])\n"
    " if d then\n"
    "  local c,l,h=string.match(d,'^(%d+) (%d+) (%d+)')\n"
    "  local s=tonumber(seq)\n"
    "  if s<=tonumber(c) or (s>=tonumber(l) and s<=tonumber(h)) then j='' end\n"
    " end\n"
    " out={10000,tonumber(seq),create,1,j,0}\n"
    "else\n"
    " local g=redis.call('HGET',KEYS[2],'t')\n"
    " local t=ARGV[2]\n"
    " if g and tonumber(g)>tonumber(t) then t=g end\n"
    " redis.call('HSET',KEYS[2],'t',t)\n"
    " local seq=redis.call('HINCRBY',KEYS[2],'seq',1)\n"
    " redis.call('XADD',KEYS[1],seq..'-0','t',t,'c',ARGV[3],'f',ARGV[1],'j',"
    "ARGV[4]..seq..ARGV[5])\n"
    " if string.find(flags,'r',1,true) then\n"
    "  redis.call('SET',KEYS[5],seq..' '..ARGV[3],'PX',86400000)\n"
    " end\n"
    " if seq%32==0 then trim(KEYS[1],tonumber(ARGV[7])) end\n"
    " out={10000,seq,ARGV[3],0,'',(g and t-g<" FOLLOWS ") and 1 or 0}\n"
    "end\n"
    "if not group then return out end\n" PUT_NODES_OF("KEYS[4]");

/* KEYS user :g :n; ARGV node, "connections terminal", groups he is in from now on. -> profile,
 * other nodes with theirs (flat), groups. */
static const char script_login[] =
    "local others=redis.call('HGETALL',KEYS[3])\n"
    "redis.call('HSET',KEYS[3],ARGV[1],ARGV[2])\n"
    "for i=3,#ARGV do redis.call('SADD',KEYS[2],ARGV[i]) end\n"
    "return {redis.call('HGET',KEYS[1],'p') or '',others,redis.call('SMEMBERS',KEYS[2])}\n";

/* KEYS user :g :n; ARGV node. He is not on it any more. -> nodes he is still on, profile, groups.
 * */
static const char script_away[] =
    "redis.call('HDEL',KEYS[3],ARGV[1])\n"
    "return {redis.call('HLEN',KEYS[3]),redis.call('HGET',KEYS[1],'p') or '',"
    "redis.call('SMEMBERS',KEYS[2])}\n";

/*
 * KEYS :g :m :d :o :n; ARGV user, node (empty: none), how (0 if he is a member, 1 joins, making the
 * group, 2 the same, but the name counts only from the first, 3 joins a group there is), name, id.
 * -> 1 he is in (0 not, 2 there is no such group), 1 joined now, 1 the first node he is on, 1 the
 * group is made, seq, online, cursor, nodes.
 */
static const char script_enter[] =
    "local how=ARGV[3]\n"
    "local g=redis.call('HMGET',KEYS[1],'id','gone','seq','name')\n"
    "local made=0\n"
    "if g[2] or (not g[1] and (how=='0' or how=='3')) then return {2} end\n"
    "if not g[1] then\n"
    " redis.call('HSET',KEYS[1],'id',ARGV[5])\n"
    " made=1\n"
    "end\n"
    "if ARGV[4]~='' and not g[4] and (how=='1' or (how=='2' and "
    "redis.call('ZCARD',KEYS[2])==0)) then\n"
    " redis.call('HSET',KEYS[1],'name',ARGV[4])\n"
    "end\n"
    "local joined,first=0,0\n"
    "if not redis.call('ZSCORE',KEYS[2],ARGV[1]) then\n"
    " if how=='0' then return {0} end\n"
    " redis.call('ZADD',KEYS[2],1,ARGV[1])\n"
    " redis.call('HSET',KEYS[3],ARGV[1],(g[3] or '0')..' 0 0')\n"
    " joined=1\n"
    "end\n"
    "local at=redis.call('HGET',KEYS[4],ARGV[1])\n"
    "if ARGV[2]~='' and not (at and string.find(at,','..ARGV[2]..',',1,true)) then\n"
    " redis.call('HSET',KEYS[4],ARGV[1],(at or ',')..ARGV[2]..',')\n"
    " redis.call('HINCRBY',KEYS[5],ARGV[2],1)\n"
    " redis.call('ZADD',KEYS[2],0,ARGV[1])\n"
    " if not at then first=1 end\n"
    "end\n"
    "local out={1,joined,first,made,tonumber(g[3] or 0),redis.call('HLEN',KEYS[4]),"
    "redis.call('HGET',KEYS[3],ARGV[1]) or '0 0 0'}\n" PUT_NODES;

/* KEYS as above; ARGV user, node. He is not on that node any more. -> 1 he was on no other, online
 * now, nodes. */
static const char script_exit[] = OFF_NODE
    "local out={off(ARGV[1],ARGV[2]),redis.call('HLEN',KEYS[4])}\n" PUT_NODES;

/* KEYS as above; ARGV user. He is no member any more. -> 1 he was (0 not, 2 no such group), online
 * before, ",NODE," where he is, nodes before. */
static const char script_leave[] = OFF_NODE
    "if not redis.call('ZSCORE',KEYS[2],ARGV[1]) then\n"
    " return {redis.call('HEXISTS',KEYS[1],'id')==1 and 0 or 2}\n"
    "end\n"
    "local at=redis.call('HGET',KEYS[4],ARGV[1]) or ','\n"
    "local out={1,redis.call('HLEN',KEYS[4]),at}\n"
    "for _,n in ipairs(redis.call('HKEYS',KEYS[5])) do out[#out+1]=n end\n"
    "for n in string.gmatch(at,'[^,]+') do off(ARGV[1],n) end\n"
    "redis.call('ZREM',KEYS[2],ARGV[1])\n"
    "redis.call('HDEL',KEYS[3],ARGV[1])\n"
    "return out\n";

/* KEYS as above; ARGV id, name. -> 1 it is made, or there again. */
static const char script_create[] =
    "local g=redis.call('HMGET',KEYS[1],'id','gone','name')\n"
    "if g[1] and not g[2] then\n"
    " if ARGV[2]~='' and not g[3] then redis.call('HSET',KEYS[1],'name',ARGV[2]) end\n"
    " return {0}\n"
    "end\n"
    "redis.call('HSET',KEYS[1],'id',ARGV[1])\n"
    "redis.call('HDEL',KEYS[1],'gone','name')\n"
    "if ARGV[2]~='' then redis.call('HSET',KEYS[1],'name',ARGV[2]) end\n"
    "return {1}\n";

/* KEYS as above. -> 1 it is gone now (0 it was, 2 there never was one), nodes. */
static const char script_dismiss[] =
    "local g=redis.call('HMGET',KEYS[1],'id','gone')\n"
    "if not g[1] then return {2} end\n"
    "if g[2] then return {0} end\n"
    "local out={1}\n"
    "for _,n in ipairs(redis.call('HKEYS',KEYS[5])) do out[#out+1]=n end\n"
    "redis.call('HSET',KEYS[1],'gone','1')\n"
    "redis.call('HDEL',KEYS[1],'name')\n"
    "redis.call('HINCRBY',KEYS[1],'life',1)\n"
    "redis.call('DEL',KEYS[2],KEYS[3],KEYS[4],KEYS[5])\n"
    "return out\n";

/* KEYS as above; ARGV name. -> 1 done, 2 no such group. */
static const char script_rename[] =
    "local g=redis.call('HMGET',KEYS[1],'id','gone')\n"
    "if not g[1] or g[2] then return {2} end\n"
    "redis.call('HSET',KEYS[1],'name',ARGV[1])\n"
    "return {1}\n";

/* KEYS as above; ARGV type (0 online, 1 offline, 2 all), offset, count. -> 1 (2 no such group),
 * name, online, total, users with 0 or 1 each, those online first. */
static const char script_page[] =
    "local g=redis.call('HMGET',KEYS[1],'id','gone','name')\n"
    "if not g[1] or g[2] then return {2} end\n"
    "local online=redis.call('ZCOUNT',KEYS[2],0,0)\n"
    "local total=redis.call('ZCARD',KEYS[2])\n"
    "local from,to=0,total\n"
    "if ARGV[1]=='0' then to=online elseif ARGV[1]=='1' then from=online end\n"
    "from=from+tonumber(ARGV[2])\n"
    "if from+tonumber(ARGV[3])<to then to=from+tonumber(ARGV[3]) end\n"
    "local out={1,g[3] or '',online,total}\n"
    "if from<to then\n"
    " for _,v in ipairs(redis.call('ZRANGE',KEYS[2],from,to-1,'WITHSCORES')) do out[#out+1]=v end\n"
    "end\n"
    "return out\n";

/* KEYS :d :m; ARGV user, cursor, lo, hi, 1: a group, which he must be in. */
static const char script_delivered[] = DELIVERED
    "if ARGV[5]=='1' and not redis.call('ZSCORE',KEYS[2],ARGV[1]) then return 0 end\n"
    "delivered(KEYS[1],ARGV[1],tonumber(ARGV[2]),tonumber(ARGV[3]),tonumber(ARGV[4]))\n"
    "return 1\n";

/*
 * KEYS stream :g :d :m; ARGV user, 1: a group, 1: leave out his own, messages and bytes there is
 * room for, 1: the first may be larger. -> upto (-1 he is not in it, -2 no such group), 1: there is
 * more, messages.
 */
static const char script_missed[] =
    "if ARGV[2]=='1' and not redis.call('ZSCORE',KEYS[4],ARGV[1]) then\n"
    " local g=redis.call('HMGET',KEYS[2],'id','gone')\n"
    " return {(g[1] and not g[2]) and -1 or -2,0}\n"
    "end\n"
    "local d=redis.call('HGET',KEYS[3],ARGV[1]) or '0 0 0'\n"
    "local cur,lo,hi=string.match(d,'^(%d+) (%d+) (%d+)')\n"
    "cur,lo,hi=tonumber(cur),tonumber(lo),tonumber(hi)\n"
    "local last=tonumber(redis.call('HGET',KEYS[2],'seq') or 0)\n"
    "local max,room,any=tonumber(ARGV[4]),tonumber(ARGV[5]),ARGV[6]=='1'\n"
    "local out={cur,0}\n"
    "local scanned=0\n"
    "while out[1]<last do\n"
    " local es=redis.call('XRANGE',KEYS[1],(out[1]+1)..'-0','+','COUNT',100)\n"
    " if #es==0 then out[1]=last end\n"
    " for _,e in ipairs(es) do\n"
    "  local s=tonumber(string.match(e[1],'^%d+'))\n"
    "  local j=e[2][8]\n"
    "  if (s<lo or s>hi) and not (ARGV[3]=='1' and e[2][6]==ARGV[1]) then\n"
    "   if max==0 or (not any and #j+1>room) then\n"
    "    out[2]=1\n"
    "    return out\n"
    "   end\n"
    "   any=false\n"
    "   max=max-1\n"
    "   room=room-#j-1\n"
    "   out[#out+1]=j\n"
    "  end\n"
    "  out[1]=s\n"
    " end\n"
    " scanned=scanned+#es\n"
    " if scanned>=20000 and out[1]<last then\n"
    "  out[2]=1\n"
    "  return out\n"
    " end\n"
    "end\n"
    "return out\n";

/*
 * KEYS stream :g :m; ARGV user (empty: anybody), 1: a group, begin and end (empty: none), offset,
 * count (below 0: all), before and after (empty: none), messages and bytes there is room for. -> 1
 * (0 he is not in it, 2 no such group), 1: there is more, messages.
 */
static const char script_history[] =
    "if ARGV[2]=='1' then\n"
    " if redis.call('HEXISTS',KEYS[2],'id')==0 then return {2,0} end\n"
    " if ARGV[1]~='' and not redis.call('ZSCORE',KEYS[3],ARGV[1]) then return {0,0} end\n"
    "end\n"
    "local function num(s) return tonumber(string.match(s,'^%d+')) end\n"
    "local function entry(seq)\n"
    " return redis.call('XRANGE',KEYS[1],string.format('%.0f',seq)..'-0','+','COUNT',1)[1]\n"
    "end\n"
    "local last=tonumber(redis.call('HGET',KEYS[2],'seq') or 0)\n"
    "local e=redis.call('XRANGE',KEYS[1],'-','+','COUNT',1)[1]\n"
    "local lo,hi=e and num(e[1]) or last+1,last\n"
    "local begin,finish=tonumber(ARGV[3]),tonumber(ARGV[4])\n"
    "local skip,count=tonumber(ARGV[5]),tonumber(ARGV[6])\n"
    "local before,after=tonumber(ARGV[7]),tonumber(ARGV[8])\n"
    "local max,room=tonumber(ARGV[9]),tonumber(ARGV[10])\n"
    "local back=before and not after\n"
    "if after and after>0 and after>=lo then lo=after+1 end\n"
    "if before and before<=hi then hi=before>0 and before-1 or 0 end\n"
    "if skip<0 then count=0 elseif count<0 then count=max+1 end\n"
    /* The first number in what is left that was stored at t or later. */
    "local function since(t)\n"
    " local a,b=lo,hi\n"
    " while a<=b do\n"
    "  local m=a+math.floor((b-a)/2)\n"
    "  local x=entry(m)\n"
    "  if not x or tonumber(x[2][2])>=t then b=m-1 else a=m+1 end\n"
    " end\n"
    " return a\n"
    "end\n"
    /* createTime is within five minutes of a node's clock, and the clocks of two nodes likewise. */
    "if begin and lo<=hi then lo=since(begin-600000) end\n"
    "if finish and lo<=hi then hi=since(finish+600001)-1 end\n"
    "if not begin and not finish and skip>0 then\n"
    " if back then hi=hi-skip else lo=lo+skip end\n"
    " skip=0\n"
    "end\n"
    "local got,more,scanned={},0,0\n"
    "local function take()\n"
    " while lo<=hi do\n"
    "  local es\n"
    "  if back then\n"
    "   es=redis.call('XREVRANGE',KEYS[1],string.format('%.0f',hi)..'-0',"
    "string.format('%.0f',lo)..'-0','COUNT',100)\n"
    "  else\n"
    "   es=redis.call('XRANGE',KEYS[1],string.format('%.0f',lo)..'-0',"
    "string.format('%.0f',hi)..'-0','COUNT',100)\n"
    "  end\n"
    "  if #es==0 then return end\n"
    "  for _,x in ipairs(es) do\n"
    "   if #got==count then return end\n"
    "   if max==0 or scanned==20000 then more=1 return end\n"
    "   scanned=scanned+1\n"
    "   local c=tonumber(x[2][4])\n"
    "   if (not begin or c>=begin) and (not finish or c<=finish) then\n"
    "    if skip>0 then skip=skip-1\n"
    "    else\n"
    "     local j=x[2][8]\n"
    "     if #got>0 and #j+1>room then more=1 return end\n"
    "     got[#got+1]=j\n"
    "     room=room-#j-1\n"
    "     max=max-1\n"
    "    end\n"
    "   end\n"
    "   if back then hi=num(x[1])-1 else lo=num(x[1])+1 end\n"
    "  end\n"
    " end\n"
    "end\n"
    "take()\n"
    "local out={1,more}\n"
    "for i=1,#got do out[#out+1]=got[back and #got+1-i or i] end\n"
    "return out\n";

/* KEYS stream :g; ARGV keep since. -> seq. Whoever is in it looks now and then. */
static const char script_check[] = TRIM
    "trim(KEYS[1],tonumber(ARGV[1]))\n"
    "return tonumber(redis.call('HGET',KEYS[2],'seq') or 0)\n";

/*
 * KEYS jim:{nodes} :i :r; ARGV node, ms the lease lasts, what it says of itself, 1: it may take off
 * a dead one's users, ms it may take for that. -> 1 its lease had not ended (0: its users may have
 * been taken off), the dead node that it is to take off or "", and all there are.
 */
static const char script_lease[] =
    "local t=redis.call('TIME')\n"
    "local now=t[1]*1000+math.floor(t[2]/1000)\n"
    "local mine=redis.call('ZSCORE',KEYS[1],ARGV[1])\n"
    "local ok=mine and tonumber(mine)>=now and not redis.call('ZSCORE',KEYS[3],ARGV[1])\n"
    "redis.call('ZADD',KEYS[1],now+tonumber(ARGV[2]),ARGV[1])\n"
    "redis.call('ZREM',KEYS[3],ARGV[1])\n"
    "redis.call('HSET',KEYS[2],ARGV[1],ARGV[3])\n"
    "local out={ok and 1 or 0,''}\n"
    "if ok and ARGV[4]=='1' then\n"
    " for _,n in ipairs(redis.call('ZRANGEBYSCORE',KEYS[1],'-inf','('..now)) do\n"
    "  local r=redis.call('ZSCORE',KEYS[3],n)\n"
    "  if out[2]=='' and (not r or tonumber(r)<now) then\n"
    "   redis.call('ZADD',KEYS[3],now+tonumber(ARGV[5]),n)\n"
    "   out[2]=n\n"
    "  end\n"
    " end\n"
    "end\n"
    "for _,n in ipairs(redis.call('ZRANGEBYSCORE',KEYS[1],now,'+inf')) do out[#out+1]=n end\n"
    "return out\n";

/* KEYS as above; ARGV node: nobody is on it any more. Unless it has come back. */
static const char script_reaped[] =
    "local t=redis.call('TIME')\n"
    "local now=t[1]*1000+math.floor(t[2]/1000)\n"
    "local s=redis.call('ZSCORE',KEYS[1],ARGV[1])\n"
    "if s and tonumber(s)>=now then return 0 end\n"
    "redis.call('ZREM',KEYS[1],ARGV[1])\n"
    "redis.call('HDEL',KEYS[2],ARGV[1])\n"
    "redis.call('ZREM',KEYS[3],ARGV[1])\n"
    "return 1\n";

/* KEYS as above. -> node, its lease's rest in ms (below 0: over), what it says, for each. */
static const char script_nodes[] =
    "local t=redis.call('TIME')\n"
    "local now=t[1]*1000+math.floor(t[2]/1000)\n"
    "local out={}\n"
    "local z=redis.call('ZRANGE',KEYS[1],0,-1,'WITHSCORES')\n"
    "for i=1,#z,2 do\n"
    " out[#out+1]=z[i]\n"
    " out[#out+1]=tonumber(z[i+1])-now\n"
    " out[#out+1]=redis.call('HGET',KEYS[2],z[i]) or '{}'\n"
    "end\n"
    "return out\n";

/* KEYS stream :g, retry key; ARGV seq, stored at, createTime, from, the chat, group id (empty: a
 * pair), 1: it may be sent again. A message from elsewhere. -> 1; 0 it, or a later one, is there.
 * */
static const char script_carry[] =
    "local g=redis.call('HMGET',KEYS[2],'seq','t','id')\n"
    "local seq=tonumber(ARGV[1])\n"
    "if seq<=tonumber(g[1] or 0) then return 0 end\n"
    "local t=ARGV[2]\n"
    "if g[2] and tonumber(g[2])>tonumber(t) then t=g[2] end\n"
    "redis.call('HSET',KEYS[2],'seq',seq,'t',t)\n"
    "if ARGV[6]~='' and not g[3] then redis.call('HSET',KEYS[2],'id',ARGV[6]) end\n"
    "redis.call('XADD',KEYS[1],ARGV[1]..'-0','t',t,'c',ARGV[3],'f',ARGV[4],'j',ARGV[5])\n"
    "if ARGV[7]=='1' then\n"
    " redis.call('SET',KEYS[3],ARGV[1]..' '..ARGV[3],'PX',86400000)\n"
    "end\n"
    "return 1\n";

/* KEYS :g; ARGV seq. It has counted so far, though no message is left: raised, never lowered. */
static const char script_counted[] =
    "if tonumber(ARGV[1])>tonumber(redis.call('HGET',KEYS[1],'seq') or 0) then\n"
    " redis.call('HSET',KEYS[1],'seq',ARGV[1])\n"
    "end\n"
    "return 1\n";

const char *
far_script(enum far_script n)
{
    static const char *const scripts[SCRIPTS] = {
        [SCRIPT_SEND] = script_send,       [SCRIPT_LOGIN] = script_login,
        [SCRIPT_AWAY] = script_away,       [SCRIPT_ENTER] = script_enter,
        [SCRIPT_EXIT] = script_exit,       [SCRIPT_LEAVE] = script_leave,
        [SCRIPT_CREATE] = script_create,   [SCRIPT_DISMISS] = script_dismiss,
        [SCRIPT_RENAME] = script_rename,   [SCRIPT_PAGE] = script_page,
        [SCRIPT_DELIVERED] = script_delivered, [SCRIPT_MISSED] = script_missed,
        [SCRIPT_HISTORY] = script_history, [SCRIPT_CHECK] = script_check,
        [SCRIPT_LEASE] = script_lease,     [SCRIPT_REAPED] = script_reaped,
        [SCRIPT_NODES] = script_nodes,     [SCRIPT_CARRY] = script_carry,
        [SCRIPT_COUNTED] = script_counted,
    };

    return scripts[n];
}
