-- at_maxmemory: The part of the commit script that runs with allow-oom. Such a commit frees memory, so it must not remember
-- an unknown id: it answers {"grow"}, and the caller sends it to the other script.
may_add = false
