"""The programs, what they need, and how their version is told."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Program:
    """One program. `run` makes its command from a folder, an address and a port."""

    name: str
    title: str
    # tells: it sends by itself; asks: one question, whose exit status says whether it was answered.
    kind: str
    run: object
    # A shell command that prints its version.
    version: str
    debian: list = field(default_factory=list)
    pypi: list = field(default_factory=list)
    npm: list = field(default_factory=list)
    # Datagrams that its server has to have received before it freezes.
    warm: int = 5
    answer: object = None

    def command(self, work, address, port):
        return self.run(work, address, port)


def dns(query):
    """An answer with one A record, 192.0.2.1."""
    end = query.index(0, 12) + 5
    head = query[:2] + b"\x85\x80" + query[4:6] + b"\0\1\0\0\0\0"
    return head + query[12:end] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1"


def text(work, name, content):
    path = Path(work) / name
    path.write_text(content)
    return str(path)


def shell(line):
    return lambda work, address, port: ["sh", "-c", line.format(address=address, port=port)]


def python(body):
    """A script with `address` and `port`."""
    return lambda work, address, port: [
        sys.executable, text(work, "client.py", f"address, port = {address!r}, {port}\n{body}")]


def node(body):
    return lambda work, address, port: [
        "node", text(work, "client.js", f"const address = '{address}', port = {port};\n{body}")]


def perl(body):
    return lambda work, address, port: [
        "perl", text(work, "client.pl", f"my ($address, $port) = ('{address}', {port});\n{body}")]


def ruby(body):
    return lambda work, address, port: [
        "ruby3.1", text(work, "client.rb", f"address, port = '{address}', {port}\n{body}")]


def java(body):
    return lambda work, address, port: [
        "java", text(work, "Client.java", body.replace("ADDRESS", f'"{address}"').replace("PORT", str(port)))]


def rust(body):
    def run(work, address, port):
        source = text(work, "client.rs", body.replace("ADDRESS", f'"{address}:{port}"'))
        subprocess.run(["rustc", "-o", f"{work}/client", source], check=True)
        return [f"{work}/client"]
    return run


def c(body):
    def run(work, address, port):
        source = text(work, "client.c", body.replace("ADDRESS", f'"{address}"').replace("PORT", str(port)))
        subprocess.run(["cc", "-o", f"{work}/client", source], check=True)
        return [f"{work}/client"]
    return run


DNS_LINE = "-p {port} @{address} +tries=3 +time=5 example.org"

ALL = [
    # ---- asks ----
    Program("dig", "dig", "asks", shell("exec dig " + DNS_LINE), "dig -v 2>&1",
            debian=["bind9-dnsutils", "bind9-libs", "libuv1", "libjemalloc2", "liblmdb0", "libmaxminddb0", "libnghttp2-14",
                    "libjson-c5", "libxml2", "libfstrm0", "libprotobuf-c1"], answer=dns),
    Program("host", "host", "asks", shell("exec host -p {port} -W 5 -R 3 example.org {address}"), "host -V 2>&1",
            debian=["bind9-host", "bind9-libs", "libuv1", "libjemalloc2", "liblmdb0", "libmaxminddb0", "libnghttp2-14",
                    "libjson-c5", "libxml2", "libfstrm0", "libprotobuf-c1"], answer=dns),
    Program("nslookup", "nslookup", "asks", shell("exec nslookup -port={port} -timeout=5 -retry=3 example.org {address}"),
            "nslookup -version 2>&1",
            debian=["bind9-dnsutils", "bind9-libs", "libuv1", "libjemalloc2", "liblmdb0", "libmaxminddb0", "libnghttp2-14",
                    "libjson-c5", "libxml2", "libfstrm0", "libprotobuf-c1"], answer=dns),
    Program("kdig", "kdig", "asks", shell("exec kdig -p {port} @{address} +retry=3 +time=5 example.org"), "kdig -V",
            debian=["knot-dnsutils", "libdnssec9", "libknot13", "libzscanner4", "libedit2", "libfstrm0", "libprotobuf-c1",
                    "libnghttp2-14", "libbpf1", "libxdp1"], answer=dns),
    Program("drill", "drill (ldns)", "asks", shell("exec drill -p {port} @{address} example.org"), "drill -v | head -1",
            debian=["ldnsutils", "libldns3"], answer=dns),
    Program("node-dns", "Node dns (c-ares)", "asks", node("""
const { Resolver } = require('dns');
const resolver = new Resolver({ timeout: 2000, tries: 4 });
resolver.setServers([`${address}:${port}`]);
resolver.resolve4('example.org', (e, found) => { console.log(e, found); process.exit(e ? 1 : 0); });
"""), "node -p 'process.versions.node + \" c-ares \" + process.versions.ares'", answer=dns),
    Program("pycares", "pycares (c-ares)", "asks", python("""
import pycares, select, sys
channel = pycares.Channel(servers=[address], udp_port=port, tcp_port=port, timeout=2.0, tries=4)
def done(result, error):
    print(result, error); sys.stdout.flush(); import os; os._exit(1 if error else 0)
channel.query("example.org", pycares.QUERY_TYPE_A, callback=done)
import time
time.sleep(30)
"""), "python3 -c 'import pycares; print(pycares.__version__)'", pypi=["pycares"], answer=dns),
    Program("dnspython", "dnspython, resolver", "asks", python("""
import dns.resolver
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port, resolver.timeout, resolver.lifetime = [address], port, 3, 12
print(resolver.resolve("example.org")[0])
"""), "python3 -c 'import dns.version; print(dns.version.version)'", pypi=["dnspython"], answer=dns),
    # ---- tells, libraries ----
    Program("datadog", "python datadog", "tells", python("""
import time
from datadog.dogstatsd import DogStatsd
client = DogStatsd(host=address, port=port, disable_buffering=True)
while True: client.increment("a"); time.sleep(0.1)
"""), "python3 -c 'from importlib.metadata import version as v; print(v(\"datadog\"))'", pypi=["datadog"]),
    Program("aiodogstatsd", "aiodogstatsd", "tells", python("""
import asyncio, aiodogstatsd
async def main():
    async with aiodogstatsd.Client(host=address, port=port) as client:
        while True: client.increment("a"); await asyncio.sleep(0.1)
asyncio.run(main())
"""), "python3 -c 'from importlib.metadata import version as v; print(v(\"aiodogstatsd\"))'", pypi=["aiodogstatsd"]),
    Program("statsd", "python statsd", "tells", python("""
import time, statsd
client = statsd.StatsClient(address, port)
while True: client.incr("a"); time.sleep(0.1)
"""), "python3 -c 'from importlib.metadata import version as v; print(v(\"statsd\"))'", pypi=["statsd"]),
    Program("graypy", "graypy (GELF)", "tells", python("""
import logging, time, graypy
log = logging.getLogger(); log.addHandler(graypy.GELFUDPHandler(address, port)); logging.raiseExceptions = False
while True: log.warning("a"); time.sleep(0.1)
"""), "python3 -c 'from importlib.metadata import version as v; print(v(\"graypy\"))'", pypi=["graypy"]),
    Program("syslog-handler", "python SysLogHandler", "tells", python("""
import logging, logging.handlers, time
log = logging.getLogger(); log.addHandler(logging.handlers.SysLogHandler((address, port))); logging.raiseExceptions = False
while True: log.warning("a"); time.sleep(0.1)
"""), "python3 --version"),
    Program("hot-shots", "hot-shots", "tells", node("""
const StatsD = require('hot-shots');
const client = new StatsD({ host: address, port, errorHandler: () => {} });
setInterval(() => client.increment('a'), 100);
"""), "node -p 'require(\"hot-shots/package.json\").version'", npm=["hot-shots"]),
    Program("net-statsd", "perl Net::Statsd", "tells", perl("""
use Net::Statsd; $Net::Statsd::HOST = $address; $Net::Statsd::PORT = $port;
while (1) { eval { Net::Statsd::increment('a') }; select(undef, undef, undef, 0.1); }
"""), "perl -MNet::Statsd -e 'print $Net::Statsd::VERSION'", debian=["libnet-statsd-perl"]),
    # ---- tells, commands ----
    Program("logger", "logger -d", "tells",
            shell("while :; do echo a; sleep 0.1; done | exec logger -d -n {address} -P {port}"), "logger --version"),
    Program("nc", "nc -u (OpenBSD)", "tells",
            shell("(while :; do echo a || exit; sleep 0.1; done) | exec nc.openbsd -u {address} {port}"),
            "dpkg-deb -f $WORK/download/netcat-openbsd_*.deb Version", debian=["netcat-openbsd"]),
    Program("socat", "socat - UDP:", "tells",
            shell("(while :; do echo a || exit; sleep 0.1; done) | exec socat - UDP:{address}:{port}"),
            "socat -V | sed -n 2p", debian=["socat", "libwrap0"]),
    Program("bash", "bash /dev/udp", "tells", lambda work, address, port: ["bash", "-c", f"""
exec 3>/dev/udp/{address}/{port}; while :; do echo a >&3; sleep 0.1; done 2>/dev/null"""], "bash --version"),
    Program("ncat", "ncat -u", "tells",
            shell("(while :; do echo a || exit; sleep 0.1; done) | exec ncat -u {address} {port}"), "ncat --version 2>&1",
            debian=["ncat", "liblua5.3-0", "libpcap0.8"]),
    Program("gawk", "gawk /inet/udp", "tells", lambda work, address, port: ["gawk", f"""BEGIN {{
  s = "/inet/udp/0/{address}/{port}"; PROCINFO[s, "NONFATAL"] = 1
  while (1) {{ print "a" |& s; fflush(s); system("sleep 0.1") }} }}"""], "gawk --version", debian=["gawk", "libsigsegv2"]),
    Program("softflowd", "softflowd (NetFlow v5)", "tells", shell(
        "ping -q -i 0.2 -W 1 127.0.0.1 >/dev/null & exec softflowd -d -i lo -n {address}:{port} -t maxlife=1 -t icmp=1 -t expint=1"),
            "dpkg-deb -f $WORK/download/softflowd_*.deb Version",
            debian=["softflowd", "libpcap0.8", "libdbus-1-3", "libibverbs1", "iputils-ping"], warm=2),
    # ---- tells, plain runtimes: one socket, no code that connects again ----
    Program("python", "Python socket", "tells", python("""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((address, port))
while True:
    try: s.send(b"a")
    except OSError: pass
    time.sleep(0.1)
"""), "python3 --version"),
    Program("asyncio", "Python asyncio", "tells", python("""
import asyncio
async def main():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=(address, port))
    while True: transport.sendto(b"a"); await asyncio.sleep(0.1)
asyncio.run(main())
"""), "python3 --version"),
    Program("uvloop", "uvloop", "tells", python("""
import asyncio, uvloop
async def main():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=(address, port))
    while True: transport.sendto(b"a"); await asyncio.sleep(0.1)
uvloop.run(main())
"""), "python3 -c 'import uvloop; print(uvloop.__version__)'", pypi=["uvloop"]),
    Program("node", "Node dgram", "tells", node("""
const s = require('dgram').createSocket('udp4'); s.on('error', () => {});
s.connect(port, address, () => setInterval(() => s.send('a', () => {}), 100));
"""), "node --version"),
    Program("node-no-listener", "Node dgram, no 'error' listener", "tells", node("""
const s = require('dgram').createSocket('udp4');
s.connect(port, address, () => setInterval(() => s.send('a'), 100));
"""), "node --version"),
    Program("perl", "Perl IO::Socket", "tells", perl("""
use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', PeerAddr => $address, PeerPort => $port);
while (1) { eval { $s->send('a') }; select(undef, undef, undef, 0.1); }
"""), "perl -e 'print $^V'"),
    Program("java", "Java DatagramChannel", "tells", java("""
import java.net.*; import java.nio.*; import java.nio.channels.*;
class Client { public static void main(String[] a) throws Exception {
  DatagramChannel c = DatagramChannel.open().connect(new InetSocketAddress(ADDRESS, PORT));
  while (true) { try { c.write(ByteBuffer.wrap(new byte[] {65})); } catch (java.io.IOException e) {} Thread.sleep(100); } } }
"""), "java --version | head -1"),
    Program("rust", "Rust std", "tells", rust("""
fn main() { let s = std::net::UdpSocket::bind("0.0.0.0:0").unwrap(); s.connect(ADDRESS).unwrap();
loop { let _ = s.send(b"a"); std::thread::sleep(std::time::Duration::from_millis(100)); } }
"""), "rustc --version"),
    Program("c", "C", "tells", c("""
#include <arpa/inet.h>
#include <unistd.h>
int main(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = inet_addr(ADDRESS)};
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  if (connect(s, (struct sockaddr *)&to, sizeof(to))) return 1;
  for (;;) { if (send(s, "a", 1, 0) < 0) {} usleep(100000); } }
"""), "cc --version"),
    Program("ruby", "Ruby UDPSocket", "tells", ruby("""
require 'socket'
s = UDPSocket.new; s.connect(address, port)
loop { begin; s.send('a', 0); rescue SystemCallError; end; sleep 0.1 }
"""), "ruby3.1 --version", debian=["ruby3.1", "libruby3.1", "libyaml-0-2", "rubygems-integration"]),
]
BY_NAME = {program.name: program for program in ALL}


def prepare(program, work):
    """Gets its packages; returns its version, or None if they cannot be had."""
    env = os.environ
    env["WORK"] = work
    root, download, modules, npm = (Path(work) / name for name in ("root", "download", "python", "npm"))
    for folder in (root, download, modules, npm):
        folder.mkdir(exist_ok=True)
    if "CLIENTS_PATH" not in env:
        env["CLIENTS_PATH"] = env["PATH"]
        env["PATH"] = f"{root}/usr/sbin:{root}/usr/bin:{root}/bin:{env['PATH']}"
        env["LD_LIBRARY_PATH"] = f"{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu"
        env["PERL5LIB"], env["PYTHONPATH"], env["NODE_PATH"] = f"{root}/usr/share/perl5", str(modules), f"{npm}/node_modules"
        env["RUBYLIB"] = f"{root}/usr/lib/ruby/3.1.0:{root}/usr/lib/x86_64-linux-gnu/ruby/3.1.0"
        env["PYTHONDONTWRITEBYTECODE"], env["LC_ALL"] = "1", "C"

    def run(*command, cwd=work):
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True)

    for package in program.debian:
        if list(download.glob(f"{package}_*.deb")):
            continue
        if run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, cwd=download).returncode:
            return None
        for deb in download.glob(f"{package}_*.deb"):
            run("dpkg", "-x", str(deb), str(root))
    if program.pypi and run(sys.executable, "-m", "pip", "install", "-q", "--target", str(modules), *program.pypi).returncode:
        return None
    if program.npm and run("npm", "install", "--silent", "--prefix", str(npm), *program.npm).returncode:
        return None
    said = run("sh", "-c", program.version)
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0].strip() if lines and not said.returncode else None
