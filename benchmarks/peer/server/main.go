// Command server is the real server from its module, with the tools that make its schemas.
//
//	server cassandra ARGUMENTS   the module's temporal-cassandra-tool
//	server sql ARGUMENTS         the module's temporal-sql-tool
//	server start CONFIG          all four services in one process, until SIGINT or SIGTERM
package main

import (
	"fmt"
	"os"

	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	_ "go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql" // for visibility
	"go.temporal.io/server/temporal"
	"go.temporal.io/server/tools/cassandra"
	"go.temporal.io/server/tools/sql"
)

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: server cassandra|sql|start ARGUMENTS"))
	}
	var err error
	switch rest := os.Args[1:]; rest[0] {
	case "cassandra":
		err = cassandra.RunTool(rest)
	case "sql":
		err = sql.RunTool(rest)
	case "start":
		err = start(rest[1])
	default:
		err = fmt.Errorf("unknown command %q", rest[0])
	}
	if err != nil {
		fail(err)
	}
}

func start(path string) error {
	configured, err := config.Load(config.WithConfigFile(path))
	if err != nil {
		return err
	}
	server, err := temporal.NewServer(
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithConfig(configured),
		temporal.WithLogger(log.NewZapLogger(log.BuildZapLogger(configured.Log))),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.InterruptOn(temporal.InterruptCh()),
	)
	if err != nil {
		return err
	}
	return server.Start()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "server:", err)
	os.Exit(1)
}
