package smoke;

import io.temporal.api.common.v1.WorkflowExecution;
import io.temporal.api.enums.v1.WorkflowExecutionStatus;
import io.temporal.client.WorkflowClient;
import io.temporal.client.WorkflowExecutionDescription;
import io.temporal.client.WorkflowOptions;
import io.temporal.client.WorkflowStub;
import io.temporal.client.WorkflowUpdateException;
import io.temporal.failure.ApplicationFailure;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;

/** Runs checks through one client against one task queue. */
final class Checks {
  /** A check: throws when what it sees is not what it expects. */
  interface Check {
    void run() throws Exception;
  }

  private final WorkflowClient client;
  private final String taskQueue;

  Checks(WorkflowClient client, String taskQueue) {
    this.client = client;
    this.taskQueue = taskQueue;
  }

  /** All checks by name, in the order in which they run. */
  Map<String, Check> byName() {
    Map<String, Check> checks = new LinkedHashMap<>();
    checks.put("hello_activity", this::helloActivity);
    checks.put("activity_retry", this::activityRetry);
    checks.put("signal", this::signal);
    checks.put("query", this::query);
    checks.put("update", this::update);
    checks.put("child_workflow", this::childWorkflow);
    checks.put("timer", this::timer);
    checks.put("continue_as_new", this::continueAsNew);
    return checks;
  }

  private <T> T stub(Class<T> workflow) {
    WorkflowOptions options =
        WorkflowOptions.newBuilder()
            .setWorkflowId("java-smoke-" + UUID.randomUUID())
            .setTaskQueue(taskQueue)
            .build();
    return client.newWorkflowStub(workflow, options);
  }

  private static void expectEqual(String what, Object got, Object want) {
    if (!got.equals(want)) {
      throw new AssertionError(what + ": got " + got + ", want " + want);
    }
  }

  private void helloActivity() {
    expectEqual("greeting", stub(Workflows.Hello.class).run("Java"), "Hello, Java!");
  }

  private void activityRetry() {
    expectEqual(
        "attempt", stub(Workflows.Retry.class).run(), Activities.ATTEMPTS_UNTIL_SUCCESS);
  }

  private void signal() throws Exception {
    Workflows.Signalled workflow = stub(Workflows.Signalled.class);
    WorkflowClient.start(workflow::run);
    List<String> values = List.of("a", "b", "c");
    values.forEach(workflow::add);
    workflow.finish();
    expectEqual("signals", WorkflowStub.fromTyped(workflow).getResult(List.class), values);
  }

  private void query() {
    Workflows.Queried workflow = stub(Workflows.Queried.class);
    WorkflowClient.start(workflow::run);
    expectEqual("query answer while running", workflow.state(), "waiting");
    workflow.finish();
    WorkflowStub.fromTyped(workflow).getResult(Void.class);
    expectEqual("query answer when closed", workflow.state(), "finished");
  }

  private void update() {
    Workflows.Updated workflow = stub(Workflows.Updated.class);
    WorkflowClient.start(workflow::run);
    expectEqual("first update", workflow.add(2), 2);
    expectEqual("second update", workflow.add(3), 5);
    expectEqual("reason of the refused update", refusalOf(workflow, -1), "amount must be positive");
    workflow.finish();
    expectEqual("total", WorkflowStub.fromTyped(workflow).getResult(Integer.class), 5);
  }

  private static String refusalOf(Workflows.Updated workflow, int amount) {
    try {
      workflow.add(amount);
    } catch (WorkflowUpdateException e) {
      return e.getCause() instanceof ApplicationFailure failure
          ? failure.getOriginalMessage()
          : String.valueOf(e.getCause());
    }
    return "none";
  }

  private void childWorkflow() {
    String childId = "java-smoke-child-" + UUID.randomUUID();
    Workflows.Parent workflow = stub(Workflows.Parent.class);
    WorkflowExecution parent = WorkflowClient.start(workflow::run, childId);
    String parentSeen = WorkflowStub.fromTyped(workflow).getResult(String.class);
    expectEqual("parent seen by the child", parentSeen, parent.getWorkflowId());
    WorkflowExecutionDescription child = client.newUntypedWorkflowStub(childId).describe();
    expectEqual("parent of the child", child.getParentExecution(), parent);
    expectEqual(
        "status of the child",
        child.getStatus(),
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED);
  }

  private void timer() {
    long sleptMs = stub(Workflows.Timer.class).run();
    if (sleptMs < Workflows.TIMER_DURATION.toMillis()) {
      throw new AssertionError("slept only " + sleptMs + " ms");
    }
  }

  private void continueAsNew() {
    Workflows.ContinuedAsNew workflow = stub(Workflows.ContinuedAsNew.class);
    WorkflowExecution first = WorkflowClient.start(workflow::run, 1);
    expectEqual(
        "number of the last run",
        WorkflowStub.fromTyped(workflow).getResult(Integer.class),
        Workflows.RUNS_UNTIL_DONE);
    expectEqual(
        "status of the first run",
        client.newUntypedWorkflowStub(first, Optional.empty()).describe().getStatus(),
        WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW);
  }
}
