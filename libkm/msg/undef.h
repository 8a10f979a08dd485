/* SPDX-License-Identifier: MIT */
/* No include guard: takes back the macros of messages.def after each use. */
#undef S
#undef E
#undef STR
#undef UUID
#undef KEY
#undef TIME
#undef PREFIX
#undef ADDR
#undef ENUM
#undef INT
#undef BOOL
#undef STRS
#undef OBJ
#undef OBJS
#undef M
