// The array acknowledges when one leg too many is outstanding: a leg that is not write-mostly.
@@
@@
- atomic_read(&r1_bio->behind_remaining) >= (atomic_read(&r1_bio->remaining)-1)
+ atomic_read(&r1_bio->behind_remaining) >= (atomic_read(&r1_bio->remaining)-2)
