package smoke;

import io.temporal.client.WorkflowClient;
import io.temporal.client.WorkflowClientOptions;
import io.temporal.serviceclient.WorkflowServiceStubs;
import io.temporal.serviceclient.WorkflowServiceStubsOptions;
import io.temporal.worker.Worker;
import io.temporal.worker.WorkerFactory;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Smoke of the official Java SDK: runs every check against the server at the given address.
 *
 * <pre>java smoke.Main ADDRESS [NAMESPACE]</pre>
 *
 * Prints "PASS name" or "FAIL name reason" for each check; exits 1 if any failed.
 */
public final class Main {
  private static final Duration CHECK_TIMEOUT = Duration.ofSeconds(30);
  private static final Duration CONNECT_TIMEOUT = Duration.ofSeconds(10);

  private Main() {}

  public static void main(String[] args) throws Exception {
    if (args.length < 1 || args.length > 2) {
      System.err.println("usage: smoke.Main ADDRESS [NAMESPACE]");
      System.exit(2);
    }
    try {
      System.exit(run(args[0], args.length == 2 ? args[1] : "default") > 0 ? 1 : 0);
    } catch (RuntimeException e) {
      System.err.println("error: " + describe(e));
      System.exit(2);
    }
  }

  /** Connects, starts a worker, and returns the number of failed checks. */
  private static int run(String address, String namespace) throws InterruptedException {
    WorkflowServiceStubs service =
        WorkflowServiceStubs.newConnectedServiceStubs(
            WorkflowServiceStubsOptions.newBuilder().setTarget(address).build(), CONNECT_TIMEOUT);
    WorkflowClient client =
        WorkflowClient.newInstance(
            service, WorkflowClientOptions.newBuilder().setNamespace(namespace).build());
    String taskQueue = "java-smoke-" + UUID.randomUUID();
    WorkerFactory factory = WorkerFactory.newInstance(client);
    Worker worker = factory.newWorker(taskQueue);
    worker.registerWorkflowImplementationTypes(Workflows.IMPLEMENTATIONS);
    worker.registerActivitiesImplementations(new Activities.Implementation());
    factory.start();
    try {
      return runChecks(new Checks(client, taskQueue).byName());
    } finally {
      factory.shutdown();
      factory.awaitTermination(10, TimeUnit.SECONDS);
      service.shutdown();
    }
  }

  private static int runChecks(Map<String, Checks.Check> checks) throws InterruptedException {
    ExecutorService executor = Executors.newCachedThreadPool();
    int failures = 0;
    for (Map.Entry<String, Checks.Check> entry : checks.entrySet()) {
      String reason = reasonOfFailure(executor, entry.getValue());
      if (reason == null) {
        System.out.println("PASS " + entry.getKey());
      } else {
        failures++;
        System.out.println("FAIL " + entry.getKey() + " " + reason);
      }
    }
    executor.shutdownNow();
    return failures;
  }

  /** Runs a check and returns why it failed, or null if it passed. */
  private static String reasonOfFailure(ExecutorService executor, Checks.Check check)
      throws InterruptedException {
    Future<?> running =
        executor.submit(
            () -> {
              check.run();
              return null;
            });
    try {
      running.get(CHECK_TIMEOUT.toMillis(), TimeUnit.MILLISECONDS);
      return null;
    } catch (TimeoutException e) {
      running.cancel(true);
      return "not done after " + CHECK_TIMEOUT.toMillis() + " ms";
    } catch (ExecutionException e) {
      return describe(e.getCause());
    }
  }

  private static String describe(Throwable error) {
    StringBuilder text = new StringBuilder(error.toString());
    for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
      text.append(" / ").append(cause);
    }
    return text.toString().replaceAll("\\s+", " ");
  }
}
