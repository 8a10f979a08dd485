/* SPDX-License-Identifier: MIT */
#include "libkm/wg/netlink.h"
#include "libkm/base/util.h"
#include "libkm/wg/internal.h"
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct km_nl {
	struct mnl_socket *sock;
	unsigned int seq;
	union {
		struct nlmsghdr align;
		char bytes[512];
	} req;
	char reply[32768];
};

/* What a dump gathers. */
struct gather {
	int ifindex;
	struct km_prefix *list;
	size_t n, room;
	bool nomem;
};

int km_nl_open(struct km_nl **out)
{
	struct km_nl *nl = km_xcalloc(1, sizeof(*nl));

	*out = NULL;
	nl->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!nl->sock || mnl_socket_bind(nl->sock, 0, MNL_SOCKET_AUTOPID)) {
		km_nl_close(nl);
		return KM_EIO;
	}
	*out = nl;
	return 0;
}

int km_nl_fd(const struct km_nl *nl)
{
	return mnl_socket_get_fd(nl->sock);
}

int km_nl_from(struct km_nl **out, int fd)
{
	struct km_nl *nl = km_xcalloc(1, sizeof(*nl));

	*out = NULL;
	nl->sock = mnl_socket_fdopen(fd);
	if (!nl->sock) {
		close(fd);
		free(nl);
		return KM_EIO;
	}
	*out = nl;
	return 0;
}

void km_nl_close(struct km_nl *nl)
{
	int saved = errno;

	if (!nl)
		return;
	if (nl->sock)
		mnl_socket_close(nl->sock);
	free(nl);
	errno = saved;
}

static struct nlmsghdr *request(struct km_nl *nl, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(nl->req.bytes);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	h->nlmsg_seq = ++nl->seq;
	return h;
}

/* Sends the request and reads answers until the acknowledgement or the end of the dump. */
static int talk(struct km_nl *nl, struct nlmsghdr *h, mnl_cb_t each, void *arg)
{
	unsigned int portid = mnl_socket_get_portid(nl->sock);
	ssize_t n;
	int rc;

	if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
		return KM_EIO;
	do {
		n = mnl_socket_recvfrom(nl->sock, nl->reply, sizeof(nl->reply));
		if (n < 0 && errno == EINTR) {
			rc = MNL_CB_OK;
			continue;
		}
		if (n < 0)
			return KM_EIO;
		rc = mnl_cb_run(nl->reply, (size_t)n, nl->seq, portid, each, arg);
		if (rc < 0 &&
		    errno == ESRCH) /* an answer to an earlier request that failed midway */
			rc = MNL_CB_OK;
	} while (rc > 0);
	return rc < 0 ? KM_EIO : 0;
}

static int on_link(const struct nlmsghdr *h, void *arg)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);

	if (h->nlmsg_type == RTM_NEWLINK)
		*(int *)arg = ifi->ifi_index;
	return MNL_CB_OK;
}

int km_nl_link(struct km_nl *nl, const char *name, int *ifindex)
{
	struct nlmsghdr *h = request(nl, RTM_GETLINK, NLM_F_ACK);
	int rc;

	*ifindex = 0;
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	rc = talk(nl, h, on_link, ifindex);
	if (rc)
		return errno == ENODEV ? KM_ENOTFOUND : rc;
	return *ifindex ? 0 : KM_ENOTFOUND;
}

static struct nlmsghdr *link_request(struct km_nl *nl, int ifindex, struct ifinfomsg **ifi)
{
	struct nlmsghdr *h = request(nl, RTM_NEWLINK, NLM_F_ACK);

	*ifi = mnl_nlmsg_put_extra_header(h, sizeof(**ifi));
	(*ifi)->ifi_family = AF_UNSPEC;
	(*ifi)->ifi_index = ifindex;
	return h;
}

int km_nl_link_move(struct km_nl *nl, int ifindex, int netns_fd)
{
	struct ifinfomsg *ifi;
	struct nlmsghdr *h = link_request(nl, ifindex, &ifi);

	mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)netns_fd);
	return talk(nl, h, NULL, NULL);
}

int km_nl_link_up(struct km_nl *nl, int ifindex, uint32_t mtu)
{
	struct ifinfomsg *ifi;
	struct nlmsghdr *h = link_request(nl, ifindex, &ifi);

	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
	if (mtu)
		mnl_attr_put_u32(h, IFLA_MTU, mtu);
	return talk(nl, h, NULL, NULL);
}

static void keep(struct gather *g, uint8_t family, uint8_t bits, const struct nlattr *at)
{
	struct km_prefix *p, *more;
	size_t len = family == AF_INET ? 4 : 16;

	if (at && mnl_attr_get_payload_len(at) < len)
		return;
	if (g->n == g->room) {
		g->room = g->room ? g->room * 2 : 16;
		more = realloc(g->list, g->room * sizeof(*more));
		if (!more) {
			g->nomem = true;
			g->room = g->n;
			return;
		}
		g->list = more;
	}
	p = &g->list[g->n++];
	memset(p, 0, sizeof(*p));
	p->addr.family = family;
	p->bits = bits;
	if (at)
		memcpy(p->addr.ip, mnl_attr_get_payload(at), len);
}

static int on_addr(const struct nlmsghdr *h, void *arg)
{
	struct gather *g = arg;
	const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(h);
	const struct nlattr *a, *address = NULL, *local = NULL;

	if (h->nlmsg_type != RTM_NEWADDR || (int)ifa->ifa_index != g->ifindex ||
	    (ifa->ifa_family != AF_INET && ifa->ifa_family != AF_INET6) ||
	    ifa->ifa_scope == RT_SCOPE_LINK) /* IPv6 link-local addresses are the kernel's affair */
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*ifa)) {
		if (mnl_attr_get_type(a) == IFA_ADDRESS)
			address = a;
		else if (mnl_attr_get_type(a) == IFA_LOCAL)
			local = a;
	}
	if (local || address)
		keep(g, ifa->ifa_family, ifa->ifa_prefixlen, local ? local : address);
	return MNL_CB_OK;
}

static int on_route(const struct nlmsghdr *h, void *arg)
{
	struct gather *g = arg;
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	const struct nlattr *a, *dst = NULL;
	int oif = 0;

	if (h->nlmsg_type != RTM_NEWROUTE || rt->rtm_table != RT_TABLE_MAIN ||
	    rt->rtm_protocol != RTPROT_STATIC || rt->rtm_type != RTN_UNICAST ||
	    (rt->rtm_family != AF_INET && rt->rtm_family != AF_INET6))
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*rt)) {
		if (mnl_attr_get_type(a) == RTA_DST)
			dst = a;
		else if (mnl_attr_get_type(a) == RTA_OIF && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			oif = (int)mnl_attr_get_u32(a);
	}
	if (oif == g->ifindex)
		keep(g, rt->rtm_family, rt->rtm_dst_len, dst);
	return MNL_CB_OK;
}

static int dump(struct km_nl *nl, uint16_t type, size_t header, mnl_cb_t each, struct gather *g)
{
	struct nlmsghdr *h = request(nl, type, NLM_F_DUMP);
	int rc;

	mnl_nlmsg_put_extra_header(h, header);
	rc = talk(nl, h, each, g);
	if (!rc && g->nomem)
		rc = KM_ENOMEM;
	if (rc) {
		free(g->list);
		g->list = NULL;
		g->n = 0;
	}
	return rc;
}

int km_nl_addrs(struct km_nl *nl, int ifindex, struct km_prefix **out, size_t *n)
{
	struct gather g = {.ifindex = ifindex};
	int rc = dump(nl, RTM_GETADDR, sizeof(struct ifaddrmsg), on_addr, &g);

	*out = g.list;
	*n = g.n;
	return rc;
}

int km_nl_routes(struct km_nl *nl, int ifindex, struct km_prefix **out, size_t *n)
{
	struct gather g = {.ifindex = ifindex};
	int rc = dump(nl, RTM_GETROUTE, sizeof(struct rtmsg), on_route, &g);

	*out = g.list;
	*n = g.n;
	return rc;
}

/* An address or route that is there already, or is gone already, is as wanted. */
static int change(struct km_nl *nl, struct nlmsghdr *h, bool add)
{
	int rc = talk(nl, h, NULL, NULL);

	if (rc == KM_EIO && add && errno == EEXIST)
		return 0;
	if (rc == KM_EIO && !add && (errno == EADDRNOTAVAIL || errno == ESRCH))
		return 0;
	return rc;
}

int km_nl_addr(struct km_nl *nl, int ifindex, const struct km_prefix *a, bool add)
{
	struct nlmsghdr *h = request(nl, add ? RTM_NEWADDR : RTM_DELADDR,
				     NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_EXCL : 0));
	struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(h, sizeof(*ifa));
	size_t len = a->addr.family == AF_INET ? 4 : 16;

	ifa->ifa_family = a->addr.family;
	ifa->ifa_prefixlen = a->bits;
	ifa->ifa_index = (uint32_t)ifindex;
	ifa->ifa_scope = RT_SCOPE_UNIVERSE;
	if (a->addr.family == AF_INET6)
		ifa->ifa_flags = IFA_F_NODAD;
	mnl_attr_put(h, IFA_LOCAL, len, a->addr.ip);
	mnl_attr_put(h, IFA_ADDRESS, len, a->addr.ip);
	return change(nl, h, add);
}

static struct nlmsghdr *route_request(struct km_nl *nl, int ifindex, const struct km_prefix *r,
				      uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = request(nl, type, NLM_F_ACK | flags);
	struct rtmsg *rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	struct km_prefix net = km_wg_network(r);

	rt->rtm_family = net.addr.family;
	rt->rtm_dst_len = net.bits;
	rt->rtm_table = RT_TABLE_MAIN;
	rt->rtm_protocol = RTPROT_STATIC;
	rt->rtm_type = RTN_UNICAST;
	rt->rtm_scope = net.addr.family == AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
	mnl_attr_put(h, RTA_DST, net.addr.family == AF_INET ? 4 : 16, net.addr.ip);
	mnl_attr_put_u32(h, RTA_OIF, (uint32_t)ifindex);
	return h;
}

int km_nl_route(struct km_nl *nl, int ifindex, const struct km_prefix *r, bool add)
{
	return change(nl,
		      route_request(nl, ifindex, r, add ? RTM_NEWROUTE : RTM_DELROUTE,
				    add ? NLM_F_CREATE | NLM_F_EXCL : 0),
		      add);
}

int km_nl_route_mtu(struct km_nl *nl, int ifindex, const struct km_prefix *r, uint32_t mtu)
{
	struct nlmsghdr *h =
	    route_request(nl, ifindex, r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	struct nlattr *metrics;

	if (mtu != 0) {
		metrics = mnl_attr_nest_start(h, RTA_METRICS);
		mnl_attr_put_u32(h, RTAX_MTU, mtu);
		mnl_attr_nest_end(h, metrics);
	}
	return talk(nl, h, NULL, NULL);
}
