/* SPDX-License-Identifier: MIT */
#include "libkm/join/join.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/join/conf_edit.h"
#include "libkm/join/token.h"
#include "libkm/link/client.h"
#include "libkm/msg/msg.h"
#include "libkm/privnet/start.h"
#include "libkm/trust/trust.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_S 60
#define CONF_MAX (1U << 20)
#define STDIN_MAX (KM_JOIN_TOKEN_MAX + 64)

extern char **environ;

struct join {
	const struct km_join_opts *o;
	const char *conf;
	bool force;
	void *settings;
	struct km_host_settings *host;
	struct km_join_token token;
	uint8_t key[KM_WG_KEY_LEN];

	struct event_base *base;
	struct km_link_client *link;
	struct km_msg_join_success answer;
	bool answered;
	unsigned failures;
	struct km_errtext err; /* why it has failed; "" */
};

static int fail(struct join *j, const char *what)
{
	if (!j->err.text[0])
		km_errtext_set(&j->err, KM_EIO, "%s", what);
	return 1;
}

/* ---- before control is asked ---- */

static int read_token(struct join *j)
{
	char *text = km_xcalloc(1, STDIN_MAX + 1);
	size_t n = 0;
	ssize_t got;
	int rc;

	while (n < STDIN_MAX && (got = read(STDIN_FILENO, text + n, STDIN_MAX - n)) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			break;
		n += (size_t)got;
	}
	rc = km_join_token_parse(&j->token, text, &j->err);
	km_wipe(text, STDIN_MAX);
	free(text);
	if (!rc && j->token.gateway != (strcmp(j->o->type, "gateway") == 0))
		rc = km_errtext_set(&j->err, KM_EINVAL, "this join token is for %s, and not for %s",
				    j->token.gateway ? "a gateway" : "an agent",
				    j->token.gateway ? "an agent" : "a gateway");
	return rc ? fail(j, "the token cannot be read") : 0;
}

static int load_settings(struct join *j)
{
	const char *path = access(j->conf, F_OK) == 0 || errno != ENOENT ? j->conf : NULL;

	if (km_conf_load(j->o->spec, path, j->settings, stderr))
		return fail(j, "the settings file has mistakes");
	if (!j->force && access(j->host->api_key_file, F_OK) == 0) {
		km_errtext_set(
		    &j->err, KM_EEXIST,
		    "%s exists: this host has joined before (-f joins it anew, in the place "
		    "of what it was)",
		    j->host->api_key_file);
		return 1;
	}
	if (km_mkdirs(j->host->state_dir, 0700)) {
		km_errtext_set(&j->err, KM_EIO, "state_dir %s: %s", j->host->state_dir,
			       strerror(errno));
		return 1;
	}
	return 0;
}

/* The warden makes the key, or finds it, and tells its public half. */
static int make_key(struct join *j)
{
	char program[KM_WIRE_PATH_MAX], line[KM_WG_KEY_STRLEN + 1] = "";
	char *argv[] = {"km-warden", "--key", j->host->state_dir, NULL};
	posix_spawn_file_actions_t to;
	size_t n = 0;
	ssize_t got;
	pid_t pid;
	int fds[2], status = -1, rc;

	if (km_start_find(j->host->warden, program, &j->err))
		return 1;
	if (pipe(fds))
		return fail(j, "no pipe");
	posix_spawn_file_actions_init(&to);
	posix_spawn_file_actions_adddup2(&to, fds[1], STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&to, fds[0]);
	posix_spawn_file_actions_addclose(&to, fds[1]);
	rc = posix_spawn(&pid, program, &to, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&to);
	close(fds[1]);
	while (!rc && n < sizeof(line) - 1 &&
	       (got = read(fds[0], line + n, sizeof(line) - 1 - n)) != 0)
		n += got > 0 ? (size_t)got : 0;
	close(fds[0]);
	while (!rc && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	line[strcspn(line, "\n")] = 0;
	if (rc || status != 0 || km_wg_key_parse(j->key, line))
		return fail(j, "the warden has made no WireGuard key");
	return 0;
}

/* ---- control ---- */

static void give_up(struct join *j)
{
	event_base_loopbreak(j->base);
}

static void on_open(void *arg, const char *url)
{
	struct join *j = arg;
	char host[254] = "", key[KM_WG_KEY_STRLEN];
	struct km_msg_join m = {.token = j->token.secret,
				.wireguard_public_key = km_wg_key_str(j->key, key),
				.version = (char *)KM_VERSION,
				.hostname = host};

	fprintf(stderr, "connected to %s\n", url);
	gethostname(host, sizeof(host) - 1);
	if (j->o->fill)
		j->o->fill(j->settings, &m);
	km_link_client_send(j->link, "join", km_msg_format(&km_msg_desc_join, &m));
}

static void on_message(void *arg, const char *type, json_t *data)
{
	struct join *j = arg;
	const char *why = json_string_value(json_object_get(data, "message"));

	if (strcmp(type, "join_success") == 0) {
		j->answered =
		    km_msg_parse(&km_msg_desc_join_success, &j->answer, data, &j->err) == 0;
		give_up(j);
	} else if (strcmp(type, "join_error") == 0 || strcmp(type, "auth_error") == 0 ||
		   strcmp(type, "error") == 0) {
		km_errtext_set(&j->err, KM_EAUTH, "control refuses: %s", why ? why : "no reason");
		give_up(j);
	}
}

/* Each of control's addresses is tried twice. */
static void on_closed(void *arg, const char *why, int64_t wait_ms)
{
	struct join *j = arg;

	(void)wait_ms;
	if (j->answered || j->err.text[0])
		return;
	fprintf(stderr, "not connected: %s\n", why);
	if (++j->failures < 2 * j->token.urls.n)
		return;
	km_errtext_set(&j->err, KM_ECLOSED, "control cannot be reached: %s", why);
	give_up(j);
}

static void on_timeout(evutil_socket_t none, short what, void *arg)
{
	struct join *j = arg;

	(void)none, (void)what;
	km_errtext_set(&j->err, KM_ETIMEOUT, "no answer from control in %d s", PATIENCE_S);
	give_up(j);
}

static int ask_control(struct join *j)
{
	static const struct km_link_client_cbs cbs = {on_open, on_message, on_closed};
	const struct timeval patience = {PATIENCE_S, 0};
	struct km_link_client_opts o = {.urls = (const char *const *)j->token.urls.items,
					.n_urls = j->token.urls.n,
					.type = j->o->type,
					.pin = j->token.pin};
	struct event *timeout = NULL;

	j->base = event_base_new();
	if (j->base)
		timeout = evtimer_new(j->base, on_timeout, j);
	if (timeout && evtimer_add(timeout, &patience) == 0 &&
	    km_link_client_start(&j->link, j->base, &o, &cbs, j, &j->err) == 0)
		event_base_dispatch(j->base);
	km_link_client_free(j->link);
	if (timeout)
		event_free(timeout);
	if (j->base)
		event_base_free(j->base);
	return j->answered ? 0 : fail(j, "no memory");
}

/* ---- after it has agreed ---- */

/* What this host has obeyed so far may be of another installation: a CA that the token names replaces
 * it. */
static int take_bundle(struct join *j, struct km_trust **t, struct km_trust_clock now)
{
	const struct km_trust_opts o = {j->host->state_dir, &j->token.cas, 0};
	char *path;
	bool changed;
	int rc = km_trust_open(t, &o, now, &j->err);

	if (!rc)
		rc = km_trust_take(*t, j->answer.bundle, now, &changed, &j->err);
	if (!rc || !j->force || j->token.cas.n == 0)
		return rc;
	km_trust_free(*t);
	path = km_xasprintf("%s/trust.pem", j->host->state_dir);
	unlink(path);
	free(path);
	rc = km_trust_open(t, &o, now, &j->err);
	return rc ? rc : km_trust_take(*t, j->answer.bundle, now, &changed, &j->err);
}

/* The bundle is signed by a CA that the token names, and the certificate is by a CA of the bundle
 * for this host's key. */
static int check_trust(struct join *j)
{
	const bool gateway = strcmp(j->o->type, "gateway") == 0;
	struct km_trust_peer self = {.gateway = gateway,
				     .id = j->answer.id,
				     .name = j->answer.name,
				     .key = j->key,
				     .certificate = j->answer.certificate};
	struct km_trust_clock now = km_trust_clock();
	struct km_trust *t = NULL;
	int rc;

	if (!j->answer.bundle || !j->answer.bundle[0])
		return 0; /* an offline CA that has signed none yet */
	rc = take_bundle(j, &t, now);
	if (!rc && self.certificate)
		rc = km_trust_admit(t, &self, now, &j->err);
	if (!rc && self.certificate)
		rc = km_trust_set_own(t, self.certificate, &j->err);
	km_trust_free(t);
	if (rc)
		return fail(j, "the certificate cannot be believed");
	j->err.text[0] = 0; /* a warning, if anything */
	return 0;
}

static int write_key(struct join *j)
{
	char *line = km_xasprintf("%s\n", j->answer.api_key);
	int rc = km_file_write(j->host->api_key_file, line, strlen(line), 0600);

	if (rc)
		km_errtext_set(&j->err, rc, "%s: %s", j->host->api_key_file, strerror(errno));
	km_wipe(line, strlen(line));
	free(line);
	return rc;
}

static int write_settings(struct join *j)
{
	const struct km_conf_edit edits[] = {
	    {"control", (const char *const *)j->token.urls.items, j->token.urls.n},
	    {"control_pin", (const char *const *)&j->token.pin, 1},
	    {"ca_pin", (const char *const *)j->token.cas.items, j->token.cas.n},
	};
	struct km_buf text;
	char *old = NULL;
	size_t n;
	int rc = km_file_read(j->conf, CONF_MAX, &old, &n);

	if (rc == KM_EIO && errno == ENOENT)
		rc = 0;
	km_buf_init(&text, 2 * CONF_MAX);
	if (!rc)
		rc = km_conf_edit(&text, old ? old : "", edits, KM_ARRAY_LEN(edits));
	if (!rc)
		rc = km_file_write(j->conf, km_buf_head(&text), text.len, 0600);
	if (rc)
		km_errtext_set(&j->err, rc, "%s: %s", j->conf,
			       km_why(rc));
	km_buf_free(&text);
	free(old);
	return rc;
}

/* The daemon may run as another user, to whom state_dir belongs by now (systemd's DynamicUser after
 * its first start): what root has written there is for that user. */
static int hand_over(struct join *j)
{
	static const char *const names[] = {"wireguard.key", "trust.pem", "trust.times",
					    "identity.pem"};
	struct stat dir, st;
	int fd = open(j->host->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0 || fstat(fd, &dir))
		rc = KM_EIO;
	for (size_t i = 0; i < KM_ARRAY_LEN(names) && !rc && geteuid() == 0 && dir.st_uid; i++)
		if (!fstatat(fd, names[i], &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode) &&
		    st.st_nlink == 1 && st.st_uid == 0 &&
		    fchownat(fd, names[i], dir.st_uid, dir.st_gid, AT_SYMLINK_NOFOLLOW))
			rc = KM_EIO;
	if (rc)
		km_errtext_set(&j->err, rc, "state_dir %s: %s", j->host->state_dir,
			       strerror(errno));
	if (fd >= 0)
		close(fd);
	return rc;
}

static void say_next(const struct join *j)
{
	char code[KM_WG_CODE_STRLEN];

	printf("This host is %s %s now.\n", j->o->type, j->answer.name);
	printf("Settings: %s; API key: %s.\n", j->conf, j->host->api_key_file);
	if (!j->answer.certificate)
		printf(
		    "Its certificate waits to be signed where the CA's key is (kmctl cert sign).\n"
		    "The code of its key, to compare there: %s\n",
		    km_wg_key_code(j->key, code));
	printf("Next: systemctl enable --now %s\n", j->o->unit);
}

/* ---- the command ---- */

static int run(struct join *j)
{
	if (load_settings(j) || read_token(j) || make_key(j) || ask_control(j) || check_trust(j))
		return 1;
	if (hand_over(j) || write_key(j) || write_settings(j))
		return 1;
	say_next(j);
	return 0;
}

static int usage(const struct join *j, FILE *f)
{
	fprintf(f,
		"usage: %s join [-f] [-c FILE] < TOKEN\n"
		"Makes this host the %s that the join token, on standard input, was made for.\n"
		"  -c FILE  the settings file to write (default: " KM_SYSCONF "/%s)\n"
		"  -f       although this host has joined before\n",
		j->o->spec->program, j->o->type, j->o->spec->file);
	return f == stderr ? 2 : 0;
}

int km_join_main(const struct km_join_opts *opts, int argc, char **argv)
{
	struct join j = {.o = opts};
	char *conf = km_xasprintf(KM_SYSCONF "/%s", opts->spec->file);
	int c, rc = -1;

	j.conf = conf;
	optind = 1;
	while (rc < 0 && (c = getopt(argc, argv, "c:fh")) != -1) {
		if (c == 'c')
			j.conf = optarg;
		else if (c == 'f')
			j.force = true;
		else
			rc = usage(&j, c == 'h' ? stdout : stderr);
	}
	if (rc < 0 && optind != argc)
		rc = usage(&j, stderr);
	if (rc < 0) {
		km_log_init(opts->spec->program, KM_LOG_WARN, KM_LOG_TEXT);
		j.settings = km_xcalloc(1, opts->spec->size);
		j.host = (struct km_host_settings *)((char *)j.settings + opts->host);
		rc = run(&j);
		if (rc)
			fprintf(stderr, "%s join: %s\n", opts->spec->program, j.err.text);
		km_conf_free(opts->spec, j.settings);
		free(j.settings);
	}
	km_msg_clear(&km_msg_desc_join_success, &j.answer);
	km_join_token_free(&j.token);
	free(conf);
	return rc;
}
