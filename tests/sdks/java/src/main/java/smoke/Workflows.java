package smoke;

import io.temporal.activity.ActivityOptions;
import io.temporal.common.RetryOptions;
import io.temporal.failure.ApplicationFailure;
import io.temporal.workflow.ChildWorkflowOptions;
import io.temporal.workflow.QueryMethod;
import io.temporal.workflow.SignalMethod;
import io.temporal.workflow.UpdateMethod;
import io.temporal.workflow.UpdateValidatorMethod;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/** The workflows that the checks run. */
final class Workflows {
  static final int RUNS_UNTIL_DONE = 3;
  static final Duration TIMER_DURATION = Duration.ofSeconds(1);

  /** Every implementation below, for the worker to register. */
  static final Class<?>[] IMPLEMENTATIONS = {
    HelloImpl.class,
    RetryImpl.class,
    SignalledImpl.class,
    QueriedImpl.class,
    UpdatedImpl.class,
    ParentImpl.class,
    ChildImpl.class,
    TimerImpl.class,
    ContinuedAsNewImpl.class,
  };

  private Workflows() {}

  private static Activities activities() {
    return Workflow.newActivityStub(
        Activities.class,
        ActivityOptions.newBuilder()
            .setStartToCloseTimeout(Duration.ofSeconds(10))
            .setRetryOptions(
                RetryOptions.newBuilder()
                    .setInitialInterval(Duration.ofMillis(20))
                    .setBackoffCoefficient(1)
                    .setMaximumAttempts(Activities.ATTEMPTS_UNTIL_SUCCESS)
                    .build())
            .build());
  }

  /** Returns what one activity returns. */
  @WorkflowInterface
  public interface Hello {
    @WorkflowMethod
    String run(String name);
  }

  public static class HelloImpl implements Hello {
    @Override
    public String run(String name) {
      return activities().greet(name);
    }
  }

  /** Returns the attempt on which its activity succeeded. */
  @WorkflowInterface
  public interface Retry {
    @WorkflowMethod
    int run();
  }

  public static class RetryImpl implements Retry {
    @Override
    public int run() {
      return activities().failTwice();
    }
  }

  /** Collects the payloads of its "add" signals until a "finish" signal. */
  @WorkflowInterface
  public interface Signalled {
    @WorkflowMethod
    List<String> run();

    @SignalMethod
    void add(String value);

    @SignalMethod
    void finish();
  }

  public static class SignalledImpl implements Signalled {
    private final List<String> seen = new ArrayList<>();
    private boolean finished;

    @Override
    public List<String> run() {
      Workflow.await(() -> finished);
      return seen;
    }

    @Override
    public void add(String value) {
      seen.add(value);
    }

    @Override
    public void finish() {
      finished = true;
    }
  }

  /** Answers "state" with "waiting" before its "finish" signal and "finished" after it. */
  @WorkflowInterface
  public interface Queried {
    @WorkflowMethod
    void run();

    @QueryMethod
    String state();

    @SignalMethod
    void finish();
  }

  public static class QueriedImpl implements Queried {
    private String state = "waiting";

    @Override
    public void run() {
      Workflow.await(() -> state.equals("finished"));
    }

    @Override
    public String state() {
      return state;
    }

    @Override
    public void finish() {
      state = "finished";
    }
  }

  /** Adds positive amounts, refuses others, and returns the total on "finish". */
  @WorkflowInterface
  public interface Updated {
    @WorkflowMethod
    int run();

    @UpdateMethod
    int add(int amount);

    @UpdateValidatorMethod(updateName = "add")
    void validateAdd(int amount);

    @SignalMethod
    void finish();
  }

  public static class UpdatedImpl implements Updated {
    private int total;
    private boolean finished;

    @Override
    public int run() {
      Workflow.await(() -> finished);
      return total;
    }

    @Override
    public int add(int amount) {
      total += amount;
      return total;
    }

    @Override
    public void validateAdd(int amount) {
      if (amount <= 0) {
        throw new IllegalArgumentException("amount must be positive");
      }
    }

    @Override
    public void finish() {
      finished = true;
    }
  }

  /** Returns what its child returns: the child's own view of its parent. */
  @WorkflowInterface
  public interface Parent {
    @WorkflowMethod
    String run(String childId);
  }

  public static class ParentImpl implements Parent {
    @Override
    public String run(String childId) {
      ChildWorkflowOptions options =
          ChildWorkflowOptions.newBuilder().setWorkflowId(childId).build();
      return Workflow.newChildWorkflowStub(Child.class, options).run();
    }
  }

  /** Returns the workflow id of its parent. */
  @WorkflowInterface
  public interface Child {
    @WorkflowMethod
    String run();
  }

  public static class ChildImpl implements Child {
    @Override
    public String run() {
      return Workflow.getInfo()
          .getParentWorkflowId()
          .orElseThrow(() -> ApplicationFailure.newFailure("no parent", "NoParent"));
    }
  }

  /** Sleeps and returns the workflow time in milliseconds that passed meanwhile. */
  @WorkflowInterface
  public interface Timer {
    @WorkflowMethod
    long run();
  }

  public static class TimerImpl implements Timer {
    @Override
    public long run() {
      long beforeMs = Workflow.currentTimeMillis();
      Workflow.sleep(TIMER_DURATION);
      return Workflow.currentTimeMillis() - beforeMs;
    }
  }

  /** Continues as new until its third run, then returns that run's number. */
  @WorkflowInterface
  public interface ContinuedAsNew {
    @WorkflowMethod
    int run(int run);
  }

  public static class ContinuedAsNewImpl implements ContinuedAsNew {
    @Override
    public int run(int run) {
      if (run < RUNS_UNTIL_DONE) {
        Workflow.newContinueAsNewStub(ContinuedAsNew.class).run(run + 1);
      }
      return run;
    }
  }
}
