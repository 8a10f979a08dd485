/* SPDX-License-Identifier: MIT */
/* Child processes of the embedded database: started as another user, tied to this process, watched
 * by a pidfd. */
#ifndef CONTROLD_STORE_CHILD_H
#define CONTROLD_STORE_CHILD_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <sys/types.h>

/* Whom to run as. */
struct child_user {
	bool change; /* false: as we are */
	uid_t uid;
	gid_t gid;
	gid_t groups[64];
	int n_groups;
};

/* The user of that name; as we are when this process is not root. KM_ENOTFOUND. */
int child_user_find(struct child_user *u, const char *name, struct km_errtext *err)
    __attribute__((warn_unused_result));

struct child_opts {
	char *const *argv; /* argv[0] is the path of the program */
	const char *dir;   /* to start in: shows that the user can get there; NULL: "/" */
	int out_fd;        /* becomes standard output and error; -1: ours */
	int death_signal;  /* sent to it when our thread ends */
};
/* Starts it with an environment of its own (PATH, LC_ALL=C, TZ=UTC), no other descriptors, a
 * process group of its own (a terminal's Ctrl-C does not reach it) and default signals. *pidfd
 * (close on exec) becomes readable at its end. Its exit status is CHILD_NO_DIR when the user cannot
 * enter dir, CHILD_NO_EXEC when the program cannot be run. KM_EIO, errno set. */
#define CHILD_NO_DIR 124
#define CHILD_NO_EXEC 125
int child_start(pid_t *pid, int *pidfd, const struct child_user *u, const struct child_opts *o)
    __attribute__((warn_unused_result));
/* Whether the process behind pidfd ended within ms (0: now, -1: wait for ever). */
bool child_ended(int pidfd, int ms);
/* Takes the status of an ended child: the exit status, or 128 and the signal. */
int child_reap(int pidfd);

#endif
