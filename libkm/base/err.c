/* SPDX-License-Identifier: MIT */
#include "libkm/base/err.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *km_strerror(int err)
{
	switch (err) {
	case 0:
		return "no error";
	case KM_EINVAL:
		return "invalid value";
	case KM_ENOMEM:
		return "out of memory";
	case KM_EIO:
		return "system call failed";
	case KM_ETOOBIG:
		return "too big";
	case KM_ENOTFOUND:
		return "not found";
	case KM_EEXIST:
		return "already exists";
	case KM_EFULL:
		return "full";
	case KM_EAGAIN:
		return "try again";
	case KM_EPROTO:
		return "protocol violation";
	case KM_EAUTH:
		return "not authenticated";
	case KM_ETIMEOUT:
		return "timed out";
	case KM_ECLOSED:
		return "closed";
	case KM_EUNSUPPORTED:
		return "not supported";
	case KM_EPERM:
		return "not permitted";
	case KM_ETRUNC:
		return "truncated";
	case KM_EGAP:
		return "revision missing";
	default:
		return "unknown error";
	}
}

const char *km_why(int err)
{
	return err == KM_EIO ? strerror(errno) : km_strerror(err);
}

int km_errtext_set(struct km_errtext *e, int err, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return err;
	va_start(ap, fmt);
	if (vsnprintf(e->text, sizeof(e->text), fmt, ap) < 0)
		e->text[0] = '\0';
	va_end(ap);
	return err;
}
