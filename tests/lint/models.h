/* SPDX-License-Identifier: MIT */
/* What the analysers of `make lint` see instead of <uthash.h> and <utlist.h>: the same meaning in
 * plain lists. They cannot follow the pointer arithmetic of the real macros and report memory used
 * after it was freed where there is none. Never compiled into anything. */
#ifndef KM_TESTS_LINT_MODELS_H
#define KM_TESTS_LINT_MODELS_H

#include <stddef.h>
#include <string.h>

#define UTHASH_H
#define UTLIST_H

typedef struct {
	void *next, *tbl;
} UT_hash_handle;

#define HASH_FIND(hh, head, key, len, out)                                                         \
	do {                                                                                       \
		(out) = (head);                                                                    \
		while ((out) && *(const char *)(out) != *(const char *)(key))                      \
			(out) = (out)->hh.next;                                                    \
	} while (0)
#define HASH_FIND_STR(head, key, out) HASH_FIND(hh, head, key, 0, out)
#define HASH_FIND_INT(head, key, out) HASH_FIND(hh, head, key, 0, out)
#define HASH_FIND_PTR(head, key, out) HASH_FIND(hh, head, key, 0, out)
#define HASH_ADD(hh, head, field, len, add)                                                        \
	do {                                                                                       \
		(add)->hh.tbl = (add);                                                             \
		(add)->hh.next = (head);                                                           \
		(head) = (add);                                                                    \
	} while (0)
#define HASH_ADD_KEYPTR(hh, head, key, len, add) HASH_ADD(hh, head, key, len, add)
#define HASH_ADD_STR(head, field, add) HASH_ADD(hh, head, field, 0, add)
#define HASH_ADD_INT(head, field, add) HASH_ADD(hh, head, field, 0, add)
#define HASH_ADD_PTR(head, field, add) HASH_ADD(hh, head, field, 0, add)
#define HASH_VALUE(key, len, value) ((value) = (unsigned)((const unsigned char *)(key))[0] << 24)
#define HASH_FIND_BYHASHVALUE(hh, head, key, len, value, out)                                       \
	do {                                                                                       \
		(void)(len), (void)(value);                                                        \
		HASH_FIND(hh, head, key, len, out);                                                \
	} while (0)
#define HASH_ADD_KEYPTR_BYHASHVALUE(hh, head, key, len, value, add) HASH_ADD(hh, head, key, len, add)
#define HASH_ADD_BYHASHVALUE(hh, head, field, len, value, add) HASH_ADD(hh, head, field, len, add)
#define HASH_SORT(head, cmp) ((void)(cmp))
#define HASH_DELETE(hh, head, del)                                                                 \
	do {                                                                                       \
		if ((head) == (del)) {                                                             \
			(head) = (del)->hh.next;                                                   \
		} else {                                                                           \
			__typeof__(head) at_ = (head);                                             \
			while (at_ && at_->hh.next != (del))                                       \
				at_ = at_->hh.next;                                                \
			if (at_)                                                                   \
				at_->hh.next = (del)->hh.next;                                     \
		}                                                                                  \
	} while (0)
#define HASH_DEL(head, del) HASH_DELETE(hh, head, del)
#define HASH_ITER(hh, head, el, tmp)                                                               \
	for ((el) = (head), (tmp) = (el) ? (el)->hh.next : NULL; (el);                             \
	     (el) = (tmp), (tmp) = (el) ? (el)->hh.next : NULL)
#define HASH_CNT(hh, head) ((head) && !(head)->hh.next ? 1U : (head) ? 2U : 0U)
#define HASH_COUNT(head) HASH_CNT(hh, head)
#define HASH_CLEAR(hh, head) ((head) = NULL)

#define LL_FOREACH2(head, el, next) for ((el) = (head); (el); (el) = (el)->next)
#define LL_FOREACH_SAFE2(head, el, tmp, next)                                                      \
	for ((el) = (head); (el) && ((tmp) = (el)->next, 1); (el) = (tmp))
#define LL_FOREACH(head, el) LL_FOREACH2(head, el, next)
#define LL_FOREACH_SAFE(head, el, tmp) LL_FOREACH_SAFE2(head, el, tmp, next)
#define LL_APPEND(head, add)                                                                       \
	do {                                                                                       \
		(add)->next = (head);                                                              \
		(head) = (add);                                                                    \
	} while (0)
#define LL_PREPEND(head, add) LL_APPEND(head, add)
#define LL_PREPEND2(head, add, next) DL_APPEND2(head, add, next, next)
#define LL_DELETE2(head, del, next) DL_DELETE2(head, del, next, next)
#define LL_DELETE(head, del) DL_DELETE2(head, del, prev, next)
#define DL_FOREACH2(head, el, next) LL_FOREACH2(head, el, next)
#define DL_FOREACH_SAFE2(head, el, tmp, next) LL_FOREACH_SAFE2(head, el, tmp, next)
#define DL_FOREACH(head, el) LL_FOREACH(head, el)
#define DL_FOREACH_SAFE(head, el, tmp) LL_FOREACH_SAFE(head, el, tmp)
#define DL_APPEND2(head, add, prev, next)                                                          \
	do {                                                                                       \
		(add)->next = (head);                                                              \
		(head) = (add);                                                                    \
	} while (0)
#define DL_APPEND(head, add) DL_APPEND2(head, add, prev, next)
#define DL_PREPEND(head, add) DL_APPEND2(head, add, prev, next)
#define DL_DELETE2(head, del, prev, next)                                                          \
	do {                                                                                       \
		if ((head) == (del)) {                                                             \
			(head) = (del)->next;                                                      \
		} else {                                                                           \
			__typeof__(head) at_ = (head);                                             \
			while (at_ && at_->next != (del))                                          \
				at_ = at_->next;                                                   \
			if (at_)                                                                   \
				at_->next = (del)->next;                                           \
		}                                                                                  \
	} while (0)
#define DL_DELETE(head, del) DL_DELETE2(head, del, prev, next)

#endif
