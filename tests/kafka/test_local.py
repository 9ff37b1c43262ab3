"""Each real part starts, answers its client, keeps what it acknowledged over SIGKILL, and stops in good order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cassandra.cluster import Cluster, Session
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.local import java, packages
from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.cluster import ClusterPorts, existing
from deploy.local.errors import PartError, PartFailed, PartMissing
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports, require_free
from deploy.local.postgres import PostgresServer
from deploy.local.process import PartProcess, kill_naming
from deploy.local.system import processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(parts_directory: Path, request: pytest.FixtureRequest) -> Path:
    """A directory for the parts of this test alone."""
    return parts_directory / request.node.name


def test_a_broker_keeps_records_over_a_kill_and_stops_in_order(directory: Path) -> None:
    cluster = KafkaCluster(directory, [BrokerPorts(*free_ports(2))], java_options=java.SHORT_LIVED)
    cluster.start()
    _create_topic(cluster, "kept", replicas=1)
    _produce(cluster, "kept", [b"one", b"two"])

    cluster.kill()
    assert not cluster.is_running
    cluster.start()

    _produce(cluster, "kept", [b"three"])
    assert _read(cluster, "kept") == [b"one", b"two", b"three"]
    assert cluster.stop()
    assert not cluster.is_running


def test_three_brokers_serve_what_one_of_them_held_while_it_is_down(directory: Path) -> None:
    cluster = KafkaCluster(directory, ClusterPorts.chosen(3).brokers, java_options=java.SHORT_LIVED)
    try:
        cluster.start()
        _create_topic(cluster, "kept", replicas=3)
        _produce(cluster, "kept", [b"one"])
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
        leader = admin.list_topics("kept", timeout=20).topics["kept"].partitions[0].leader

        cluster.brokers[leader - 1].kill()
        _produce(cluster, "kept", [b"two"])
        cluster.brokers[leader - 1].start()

        assert _read(cluster, "kept") == [b"one", b"two"]
    finally:
        cluster.kill()


def test_a_broker_makes_no_topic_unasked(broker: KafkaCluster, topic_prefix: str) -> None:
    with pytest.raises(KafkaException) as caught:
        _produce(broker, f"{topic_prefix}.unknown", [b"lost"])
    assert caught.value.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_broker_has_groups_of_the_consumer_protocol(broker: KafkaCluster, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.grouped"
    _create_topic(broker, topic, replicas=1)
    _produce(broker, topic, [b"one"])
    settings = {
        "bootstrap.servers": broker.bootstrap_servers,
        "group.id": topic_prefix,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
    }
    with Consumer(settings) as consumer:
        consumer.subscribe([topic])
        message = consumer.poll(30)
        assert message is not None and message.error() is None
        assert message.value() == b"one"


def test_cassandra_keeps_rows_over_a_kill_and_stops_in_order(directory: Path) -> None:
    node = CassandraNode(directory, CassandraPorts(*free_ports(2)), java.SHORT_LIVED)
    node.start()
    with Cluster(["127.0.0.1"], port=node.port) as cluster:
        session = cluster.connect()
        session.execute(
            "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
        )
        session.execute("CREATE TABLE k.rows (id int PRIMARY KEY, value text)")
        for n in range(100):
            session.execute("INSERT INTO k.rows (id, value) VALUES (%s, %s)", [n, f"value {n}"])

        # At once after the last answer, when a log written only now and then would lose it.
        node.kill()
    node.start()

    with Cluster(["127.0.0.1"], port=node.port) as cluster:
        rows = {row.id: row.value for row in cluster.connect().execute("SELECT id, value FROM k.rows")}
    assert rows == {n: f"value {n}" for n in range(100)}
    assert node.stop()
    assert not node.is_running


def test_each_test_has_a_keyspace_of_its_own(cassandra_session: Session, keyspace: str) -> None:
    cassandra_session.execute(f"CREATE TABLE {keyspace}.rows (id int PRIMARY KEY)")
    assert list(cassandra_session.execute(f"SELECT id FROM {keyspace}.rows")) == []


def test_postgres_keeps_rows_over_a_kill_and_stops_in_order(directory: Path) -> None:
    server = PostgresServer(directory, *free_ports(1))
    server.start()
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE rows (id int PRIMARY KEY)")
        connection.execute("INSERT INTO rows VALUES (1)")
        connection.commit()
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT id FROM rows")
    server.start()

    with psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT id FROM rows").fetchall() == [(1,)]
    assert server.stop()
    assert not server.is_running


def test_each_test_has_a_schema_of_its_own(postgres: PostgresServer, schema: str) -> None:
    with psycopg.connect(postgres.dsn_of_schema(schema)) as connection:
        connection.execute("CREATE TABLE rows (id int PRIMARY KEY)")
        found = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'rows'").fetchall()
    assert found == [(schema,)]


def test_a_start_that_fails_shows_the_end_of_the_log(directory: Path) -> None:
    server = PostgresServer(directory, *free_ports(1))
    server.start()
    server.stop()
    with (directory / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write("nonsense\n")
    with pytest.raises(PartFailed, match="syntax error in file"):
        server.start()


def test_a_part_does_not_start_where_another_process_listens(
    directory: Path, postgres: PostgresServer
) -> None:
    with pytest.raises(PartError, match=f"another process listens at port {postgres.port}"):
        PostgresServer(directory, postgres.port).start()


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PartMissing, match=r"need Maven \(mvn\).*install the Debian packages maven"):
        packages.maven()


def test_the_parts_end_with_whoever_watches_over_them(directory: Path) -> None:
    server = PostgresServer(directory, *free_ports(1))
    server.start()
    command = [sys.executable, "-m", "deploy.local.watch", str(directory)]
    subprocess.run(command, stdin=subprocess.DEVNULL, cwd=ROOT, check=True)
    assert not server.is_running


def test_a_pid_that_now_belongs_to_another_process_is_left_alone(directory: Path) -> None:
    process = PartProcess("gone", directory)
    directory.mkdir()
    (directory / "pid").write_text(str(os.getpid()))
    assert process.pid is None
    process.kill()
    assert process.stop(timeout_s=0)


_HOLDS_A_PORT = """
import socket, sys, threading
held = socket.create_server(("127.0.0.1", int(sys.argv[1])))
memory = b"x" * 200_000_000
for _ in range(20):
    threading.Thread(target=threading.Event().wait).start()
"""


@pytest.mark.parametrize("ends", ["killed", "stopped", "killed as a stray"])
def test_a_process_that_was_ended_holds_no_port(directory: Path, ends: str) -> None:
    # Its first thread ends long before the last one, which frees the memory first and then closes the port.
    process = PartProcess("holder", directory)
    for port in free_ports(5):
        process.start([sys.executable, "-c", _HOLDS_A_PORT, str(port), str(directory)])
        process.wait_until(lambda port=port: _is_listening(port), timeout_s=60)  # type: ignore[misc]
        # As another command does, which is not its parent.
        found = PartProcess("holder", directory)
        if ends == "killed":
            found.kill()
        elif ends == "stopped":
            assert found.stop(timeout_s=60)
        else:
            kill_naming(str(directory))
        require_free(port)
        assert process.pid is None


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(
    900
)  # starts all parts and ten processes of the server, on whatever the machine has left
def test_the_commands_serve_a_cluster_and_leave_nothing_behind(directory: Path) -> None:
    def local(command: str, *flags: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "deploy.local", command, "--dir", str(directory), *flags]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)

    up = local("up")
    assert up.returncode == 0, up.stderr
    described = json.loads((directory / "cluster.json").read_text())
    admin = AdminClient({"bootstrap.servers": described["kafka"]["bootstrap_servers"], "log_level": 0})
    assert list(admin.list_topics(timeout=20).brokers) == [1]
    with Cluster(["127.0.0.1"], port=described["cassandra"]["port"]) as cluster:
        assert cluster.connect().execute("SELECT release_version FROM system.local").one() is not None
    psycopg.connect(described["postgres"]["dsn"]).close()
    assert local("status").returncode == 0

    # What was killed comes back.
    existed = existing(directory)
    assert existed is not None
    existed.postgres.kill()
    assert local("status").returncode == 1
    (port,) = free_ports(1)
    served = local("up", "--serve", "--port", str(port))
    assert served.returncode == 0, served.stderr
    assert f"Server: 127.0.0.1:{port}" in served.stdout
    psycopg.connect(described["postgres"]["dsn"]).close()

    # So does a role whose first process was killed, which leaves its children alone.
    timers = next(process for process in existed.server.processes if process.name == "odradek timer")
    assert timers.pid is not None
    os.kill(timers.pid, signal.SIGKILL)
    demo = local("demo")
    assert demo.returncode == 0, f"{demo.stdout}\n{demo.stderr}"
    assert f"the server answers on 127.0.0.1:{port}" in demo.stdout
    assert "SIGKILL to worker" in demo.stdout
    assert "stopped in good order" in demo.stdout

    assert [process.arguments for process in processes() if f"{directory}/" in process.arguments] == []
    assert local("status").returncode == 1
    again = local("down")
    assert (again.returncode, again.stdout) == (0, f"nothing runs in {directory}\n")


def test_a_port_that_is_taken_is_named_before_anything_starts(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["up", "--dir", str(directory), "--serve", "--port", port]
        up = subprocess.run(
            [sys.executable, "-m", "deploy.local", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert up.returncode == 1
    assert up.stderr.startswith(f"the server cannot have 127.0.0.1:{port}, where another process listens: ")
    assert not list(directory.rglob("pid"))


def _create_topic(cluster: KafkaCluster, name: str, replicas: int) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
    for created in admin.create_topics(
        [NewTopic(name, num_partitions=1, replication_factor=replicas)]
    ).values():
        created.result()


def _produce(cluster: KafkaCluster, topic: str, values: list[bytes]) -> None:
    """Return once each record is acknowledged. Raises KafkaException with the first error."""
    errors: list[KafkaError] = []
    producer = Producer(
        {
            "bootstrap.servers": cluster.bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            "log_level": 0,
            "topic.metadata.propagation.max.ms": 1000,
        }
    )
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error) if error else None)
    assert producer.flush(30) == 0
    if errors:
        raise KafkaException(errors[0])


def _read(cluster: KafkaCluster, topic: str) -> list[bytes]:
    settings = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "none", "log_level": 0}
    with Consumer(settings) as consumer:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in _messages(consumer, end)]


def _messages(consumer: Consumer, count: int) -> Iterator:
    for _ in range(count):
        message = consumer.poll(30)
        assert message is not None and message.error() is None
        yield message
