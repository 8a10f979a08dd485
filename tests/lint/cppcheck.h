/* SPDX-License-Identifier: MIT */
/* cppcheck reads no library's header at all, so it must be told which macros are loops. */
#define TAILQ_FOREACH(el, head, field) for ((el) = (head)->tqh_first; (el); (el) = (el)->field.tqe_next)
#define json_object_foreach(o, key, value)                                                         \
	for (void *it_ = json_object_iter(o);                                                      \
	     it_ && ((key) = json_object_iter_key(it_), (value) = json_object_iter_value(it_), 1); \
	     it_ = json_object_iter_next(o, it_))
#define json_array_foreach(a, i, value)                                                            \
	for ((i) = 0; (i) < json_array_size(a) && ((value) = json_array_get(a, i)); (i)++)
#define wg_for_each_peer(dev, peer)                                                                \
	for ((peer) = (dev)->first_peer; (peer); (peer) = (peer)->next_peer)
#define wg_for_each_allowedip(peer, ip)                                                            \
	for ((ip) = (peer)->first_allowedip; (ip); (ip) = (ip)->next_allowedip)
