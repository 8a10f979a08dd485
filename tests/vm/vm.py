#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs the tests on a kernel that has WireGuard: Debian's, in QEMU (no KVM needed), over this host's
root. vm.py [ARGUMENTS OF PYTEST]; KM_BUILD names the build, KM_VM_LIMIT the seconds that the tests may
take. The kernel is unpacked once under build/vm, and nothing else is left behind."""
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE))

from tests.lab.proc import Proc  # noqa: E402

BUILD = pathlib.Path(os.environ.get("KM_BUILD", TREE / "build")).resolve()
VM = TREE / "build/vm"
# For the guest's root; what the lab needs later, the guest loads itself.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
LIMIT = int(os.environ.get("KM_VM_LIMIT", "900"))
# Plain: no AVX for the guest to choose and TCG to emulate.
CPU = "Westmere,+rdrand"
MARK = "km-vm: status "


def run(*argv, **kw):
    return subprocess.run(argv, check=True, **kw)


def kernel_package():
    """The package that linux-image-amd64 stands for today; None: apt knows none."""
    out = run("apt-cache", "depends", "linux-image-amd64", stdout=subprocess.PIPE, text=True).stdout
    for line in out.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    return None


def download_kernel(folder):
    package = kernel_package()
    if not package:
        return False
    print(f"fetching {package}", flush=True)
    return not subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package],
                              cwd=folder).returncode


def fetch_kernel(root):
    """Unpacks Debian's kernel, without installing it; kept for the next time."""
    if root.exists():
        return
    VM.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=VM) as tmp:
        if not download_kernel(tmp):  # a package list that is missing, or older than the mirror
            run("apt-get", "-qq", "update")
            if not download_kernel(tmp):
                raise SystemExit("vm: Debian's kernel (linux-image-amd64) cannot be fetched by apt-get download")
        deb, = pathlib.Path(tmp).glob("*.deb")
        run("dpkg", "-x", deb, f"{tmp}/root")
        version = next(pathlib.Path(f"{tmp}/root/lib/modules").iterdir()).name
        run("depmod", "-b", f"{tmp}/root", version)
        os.rename(f"{tmp}/root", root)


def module_files(modules):
    """The files to load for MODULES, each after those that it depends on."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, deps = line.partition(":")
        needs[path] = deps.split()
    by_name = {pathlib.Path(p).stem.replace("-", "_"): p for p in needs}
    order = []
    for name in MODULES:
        path = by_name.get(name)  # None: built into the kernel
        for p in [*reversed(needs[path]), path] if path else []:
            if p not in order:
                order.append(p)
    return [modules / p for p in order]


def make_control_state(out):
    """The state of a fresh controld as a tar file: initdb takes most of a minute in the guest."""
    with tempfile.TemporaryDirectory(prefix="kmvm") as tmp:
        os.chmod(tmp, 0o755)
        state = pathlib.Path(tmp, "control")
        state.mkdir()
        conf = pathlib.Path(tmp, "conf")
        conf.write_text(f"state_dir = {state}\nnames = control.demo.test\nrest_listen = 127.0.0.1:3000\n"
                        "link_listen = 127.0.0.1:3001\n")
        p = Proc("controld", ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                              str(BUILD / "controld"), "-c", str(conf)], f"{tmp}/log")
        try:
            p.wait_log("control ready")
        finally:
            p.stop()
        run("tar", "-C", state, "-cf", out, ".")


def make_initramfs(out, modules, job):
    with tempfile.TemporaryDirectory() as tmp:
        root = pathlib.Path(tmp)
        for d in ("bin", "dev", "proc", "modules", "host", "changes", "new"):
            (root / d).mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        shutil.copy(TREE / "tests/vm/init", root / "init")
        (root / "init").chmod(0o755)
        for i, p in enumerate(module_files(modules)):
            shutil.copy(p, root / f"modules/{i:02}-{p.name}")
        (root / "job").write_text(job)
        names = "".join(f"{p.relative_to(root)}\n" for p in sorted(root.rglob("*")))
        with open(out, "wb") as f:
            run("cpio", "--quiet", "-o", "-H", "newc", cwd=root, input=names.encode(), stdout=f)


def boot(kernel, initramfs):
    return subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "3072",
         "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial", "stdio",
         "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
         "-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1 mitigations=off audit=0 apparmor=0"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def follow(qemu):
    """Prints what the guest says until it says the exit status; None if it never does."""
    for raw in qemu.stdout:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith(MARK):
            return int(line[len(MARK):])
        print(line, flush=True)
    return None


def main(args):
    root = VM / "root"
    fetch_kernel(root)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    modules = next((root / "lib/modules").iterdir())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(dir=VM) as tmp:
        job = shlex.join(map(str, [
            "env", f"KM_VM_LIMIT={LIMIT}", f"KM_CONTROL_STATE={tmp}/control.tar",
            f"KM_SLOW={os.environ.get('KM_SLOW', '4')}", f"KM_SOAK={os.environ.get('KM_SOAK', '260')}",
            "sh", TREE / "tests/vm/guest.sh", TREE, BUILD, VM, *args]))
        make_initramfs(f"{tmp}/initramfs", modules, f"exec {job}\n")
        make_control_state(f"{tmp}/control.tar")
        qemu = boot(kernel, f"{tmp}/initramfs")
        killer = threading.Timer(LIMIT + 120, qemu.kill)
        killer.start()
        try:
            status = follow(qemu)
        finally:
            killer.cancel()
            qemu.kill()
            qemu.wait()
    if status is None:
        print("vm: the guest ended, or was ended, without a result", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
